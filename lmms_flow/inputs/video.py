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
    """Decodes ``num_frames`` frames of a file, or of the clip from ``start`` to ``end`` in seconds.

    ``sampling`` says which (:func:`frame_indices`); ``duration`` is a data set's own, which may differ from the
    file's. A clip shorter than ``num_frames`` repeats frames. The file is decoded in a process of its own, which is
    ended when it takes longer than ``timeout`` seconds.

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
