"""Reading frames of a video file; every way in which that can fail is one :class:`SampleError`."""

from __future__ import annotations

import math
import os
import re
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from lmms_flow.harness.errors import SampleError, one_line
from lmms_flow.inputs.clock import read_clock, shown_times
from lmms_flow.inputs.sampling import SAMPLINGS, frame_indices

# A file that ends this much before its own header says is truncated. Less is within what muxers get wrong.
_TOLERATED_SHORTFALL = 0.1


@dataclass(frozen=True, eq=False)
class Frames:
    """Decoded frames of one clip.

    ``pixels`` is uint8 RGB [frame, height, width, 3], ``indices`` says which frames of the file these are,
    ``fps`` is the file's average frame rate (nan where it states none), ``times`` are seconds from its start
    at that rate: decord's own time stamps are wrong in AVI. ``shown`` are the seconds that VideoLLaMA3's prompt names
    (:func:`shown_times`), where frames were taken in its way and the file states its duration.
    """

    pixels: np.ndarray[Any, np.dtype[np.uint8]]
    indices: tuple[int, ...]
    fps: float
    times: tuple[float, ...]
    shown: tuple[float, ...] = ()


def read_frames(
    path: str | os.PathLike[str],
    num_frames: int,
    start: float | None = None,
    end: float | None = None,
    sampling: str = "midpoints",
    duration: float | None = None,
) -> Frames:
    """Decodes ``num_frames`` frames of a file, or of the clip from ``start`` to ``end`` in seconds.

    ``sampling`` says which (:func:`frame_indices`); ``duration`` is a data set's own, which may differ from the
    file's. A clip shorter than ``num_frames`` repeats frames.

    Raises:
        SampleError: the file is missing, a folder, empty, not a video, truncated, damaged or without frames,
            or the bounds are reversed or outside of it.
        ValueError: ``num_frames`` or ``sampling`` is none that there is.
    """
    if sampling not in SAMPLINGS:
        raise ValueError(f"frames are sampled by {', '.join(SAMPLINGS)}, not by {sampling!r}")
    if num_frames < 1:
        raise ValueError(f"at least one frame is needed, not {num_frames}")
    file = _existing_file(path)
    declared = _read_header(file)
    reader = _open(file)
    length = len(reader)
    if length == 0:
        raise SampleError("the video has no frames", path=file)
    fps = float(reader.get_avg_fps() or math.nan)
    _refuse_truncated(reader, length, declared, file)
    indices = frame_indices(sampling, num_frames, length, fps, start, end, duration, path=file)
    try:
        pixels = _as_numpy(reader.get_batch(list(indices)))
    except Exception as error:  # decord raises types of its own, RuntimeError and IndexError
        raise _broken("the video can't be decoded, it", error, file) from None
    clock = read_clock(file) if sampling == "linspace" else None
    shown = () if clock is None else shown_times(indices, length, fps, clock, start, end)
    return Frames(pixels, indices, fps, tuple(round(index / fps, 4) for index in indices), shown)


def _existing_file(path: Any) -> Path:
    if not isinstance(path, (str, os.PathLike)):
        raise SampleError(f"the task gives the video as a {type(path).__name__}, not as a file")
    file = Path(path)
    if file.is_dir():
        raise SampleError("the video is a folder", path=file)
    if not file.is_file():
        raise SampleError("the video is missing", path=file)
    try:
        with file.open("rb") as opened:
            empty = not opened.read(1)
    except OSError as error:
        raise SampleError(f"the video can't be opened ({error.strerror})", path=file) from None
    if empty:
        raise SampleError("the video file is empty", path=file)
    return file


@dataclass(frozen=True)
class _Declared:
    """How long a video is by its header, where that is of use.

    Only AVI (frames), Matroska and WebM (seconds) are read short without an error. In MP4 a truncated file fails
    to open or to decode, and edit lists make its declared length mean something else.
    """

    frames: int = 0
    seconds: float = 0.0


def _read_header(file: Path) -> _Declared:
    """Refuses a file that has no frames to begin with."""
    import av

    av.logging.set_level(None)
    try:
        with av.open(str(file)) as container:
            streams = container.streams.video
            if not streams:
                raise SampleError("the file has no video stream", path=file)
            formats = set(container.format.name.split(","))
            frames = streams[0].frames
            clock = streams[0].metadata.get("DURATION", "")
            if not any(packet.size for packet in islice(container.demux(streams[0]), 1)):
                raise SampleError("the video has no frames", path=file)
    except (av.error.FFmpegError, OSError, UnicodeError) as error:
        raise _broken("the file is not a video, or", error, file) from None
    if "avi" in formats:
        return _Declared(frames=frames)
    return _Declared(seconds=_seconds(clock)) if formats & {"matroska", "webm"} else _Declared()


def _seconds(clock: str) -> float:
    """Seconds of ``00:01:02.5``, as Matroska writes a stream's duration; 0 where it does not."""
    found = re.fullmatch(r"(\d+):(\d+):(\d+(?:\.\d+)?)", clock)
    return 0.0 if found is None else int(found[1]) * 3600 + int(found[2]) * 60 + float(found[3])


def _open(file: Path) -> Any:
    import decord

    decord.logging.set_level(decord.logging.QUIET)  # FFmpeg's own lines; what matters is in the exception
    try:
        # One thread: the machine's cores are the model's, and frames don't depend on how many there are.
        return decord.VideoReader(str(file), ctx=decord.cpu(0), num_threads=1)
    except Exception as error:
        raise _broken("the video can't be opened, it", error, file) from None


def _refuse_truncated(reader: Any, length: int, declared: _Declared, file: Path) -> None:
    least = 1 - _TOLERATED_SHORTFALL
    if length < declared.frames * least:
        raise SampleError(
            f"the video is truncated: {length} of {declared.frames} frames are there", path=file
        )
    if declared.seconds:
        found = float(reader.get_frame_timestamp(length - 1)[1])
        if found < declared.seconds * least:
            line = f"the video is truncated: {found:.2f} of {declared.seconds:.2f} s are there"
            raise SampleError(line, path=file)


def _as_numpy(batch: Any) -> np.ndarray[Any, np.dtype[np.uint8]]:
    # Another model in this process may have told decord to return tensors.
    return np.ascontiguousarray(batch.asnumpy() if hasattr(batch, "asnumpy") else np.asarray(batch))


def _broken(what: str, error: BaseException, file: Path) -> SampleError:
    """Keeps the first line of what a decoder says, without its source file, the time and our own path."""
    detail = str(error).strip().partition("\n")[0] or type(error).__name__
    detail = detail.replace(f"[{file}]", "")
    detail = re.sub(r"\[\d\d:\d\d:\d\d\] \S+?:\d+: |^\[Errno \d+\] |: '[^']*'$", "", detail)
    return SampleError(f"{what} is damaged or truncated ({one_line(detail, limit=80)})", path=file)
