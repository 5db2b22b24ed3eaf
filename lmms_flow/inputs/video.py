"""Reading frames of a video file; every way in which that can fail is one :class:`SampleError`."""

from __future__ import annotations

import os
from collections.abc import Sequence

from lmms_flow.inputs.clip import ANY_READER, Clip, Frames, existing_file
from lmms_flow.inputs.workers import TIMEOUT, Workers

_shared = Workers()


def read_frames(
    path: str | os.PathLike[str],
    num_frames: int,
    start: float | None = None,
    end: float | None = None,
    sampling: str = "midpoints",
    duration: float | None = None,
    reader: str = ANY_READER,
    timeout: float = TIMEOUT,
) -> Frames:
    """Decodes some frames of a video file, or of a clip of it, in a process of its own.

    Args:
        path: the file.
        num_frames: how many; a clip with fewer repeats some.
        start: the clip's beginning in seconds; the file's by default.
        end: the clip's end in seconds; the file's by default.
        sampling: which frames (:func:`lmms_flow.inputs.sampling.frame_indices`).
        duration: in seconds as the data set states it, which may differ from the file's.
        reader: the library that decodes; by default one after another, until one is found to be right.
        timeout: seconds after which the process is ended.

    Returns:
        The frames: pixels uint8 [frame, height, width, 3], their indices and times.

    Raises:
        SampleError: the file is missing, a folder, empty, not a video, truncated, damaged or without frames, it takes
            too long, or the bounds are reversed or outside of it.
        ValueError: ``num_frames``, ``sampling`` or ``reader`` is none that there is.
    """
    file = existing_file(path)
    return _shared.read(Clip(os.fspath(file), num_frames, start, end, sampling, duration, reader), timeout)


def frames_at(path: str | os.PathLike[str], indices: Sequence[int], timeout: float = TIMEOUT) -> Frames:
    """The frames of a file at these places in the order of display, counted from 0.

    Raises SampleError as :func:`read_frames` does, and where the file has fewer frames.
    """
    file = existing_file(path)
    return _shared.read(Clip(os.fspath(file), len(indices), at=tuple(indices)), timeout)


__all__ = ["Clip", "Frames", "frames_at", "read_frames"]
