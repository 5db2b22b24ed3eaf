"""Which frames of a video are taken: the rules of the paper's loaders, by numbers alone.

No file is opened here. `length` is how many frames a video has, `fps` how many a second, bounds are in seconds.
"""

from __future__ import annotations

import math
import os

import numpy as np

from lmms_flow.errors import SampleError

SAMPLINGS = ("midpoints", "segment_starts", "linspace")
SHORT_CLIP = 1.0  # seconds; VideoLLaMA3's loader takes shorter clips by another rule


def frame_indices(
    sampling: str,
    num_frames: int,
    length: int,
    fps: float,
    start: float | None = None,
    end: float | None = None,
    duration: float | None = None,
    path: str | os.PathLike[str] | None = None,
) -> tuple[int, ...]:
    """The frames that a prompt gets of a clip; a single frame is the middle one by all ways.

    Args:
        sampling: `midpoints` is the paper's way for LLaVA and InternVL, `segment_starts` its LLaVA's on LongVideoBench,
            `linspace` VideoLLaMA3's.
        num_frames: how many.
        length: of the video, in frames.
        fps: its frames a second.
        start: the clip's beginning in seconds; the video's by default.
        end: the clip's end in seconds; the video's by default.
        duration: in seconds as the data set's row states it, for `segment_starts`.
        path: the file, for an error.

    Returns:
        Indices into the video's frames, in order, from 0.

    Raises:
        SampleError: there is no such clip.
    """
    if sampling == "linspace":
        first, last = timed_bounds(length, fps, start, end, path=path)
    else:
        first, last = clip_bounds(length, fps, start, end, path=path)
    if sampling == "midpoints" or num_frames == 1:
        return midpoints(first, last, num_frames)
    if sampling == "linspace":
        return linspace(first, last, num_frames)
    if duration is None and not _is_rate(fps):
        raise SampleError("frames are taken by the second, but the file states no frame rate", path=path)
    return segment_starts(min(first, last), last, num_frames, fps, duration)


def midpoints(first: int, last: int, num_frames: int) -> tuple[int, ...]:
    """Indices of the middles of `num_frames` equal segments of the frames `first` to `last`.

    The rounding is the paper's; it never leaves the video.
    """
    segment = (last - first) / num_frames
    return tuple(int(first + segment / 2 + round(segment * i)) for i in range(num_frames))


def segment_starts(
    first: int, last: int, num_frames: int, fps: float, duration: float | None = None
) -> tuple[int, ...]:
    """Indices of the starts of equal segments of the frames `first` to `last`, at most one for each whole second.

    `duration` are the seconds that count, where a data set states them. A clip of fewer seconds than `num_frames`
    repeats the last index; one shorter than a second has one.
    """
    length = last - first + 1
    # 300 frames at 29.97 a second are ten seconds.
    seconds = int(length / fps + 1e-6) if duration is None else int(duration)
    count = max(min(num_frames, seconds), 1)
    starts = [first + i * int(length / count) for i in range(count)]
    return tuple(starts + starts[-1:] * (num_frames - count))


def linspace(first: int, last: int, num_frames: int) -> tuple[int, ...]:
    """Indices evenly spaced from the frame `first` to the frame `last`, both ends taken, rounded down."""
    return tuple(np.linspace(first, last, num_frames, dtype=int).tolist())


# Bounds in seconds


def clip_bounds(
    length: int,
    fps: float,
    start: float | None,
    end: float | None,
    *,
    path: str | os.PathLike[str] | None = None,
) -> tuple[int, int]:
    """First and last frame of a clip by the rounding of the paper's LLaVA and InternVL.

    An end after the video's own is its end: data sets round up. A start in the last half frame rounds to one frame
    behind the last one, and `midpoints` then counts backwards from there, as in the paper.
    """
    if start is None and end is None:
        return 0, length - 1
    begin, stop = _checked(fps, start, end, path)
    first = round(begin * fps)
    if first > length:
        raise _behind(length, fps, start, end, path)
    return first, length - 1 if math.isinf(stop) else min(round(stop * fps), length - 1)


def timed_bounds(
    length: int,
    fps: float,
    start: float | None,
    end: float | None,
    *,
    path: str | os.PathLike[str] | None = None,
) -> tuple[int, int]:
    """First and last frame of a clip as VideoLLaMA3's loader cuts it: the frames from `start` on and before `end`.

    A clip shorter than a second is cut by frame numbers instead, one frame earlier; one of no length is taken for a
    second.
    """
    if start is None and end is None:
        return 0, length - 1
    begin, stop = _checked(fps, start, end, path)
    if is_short(start, end):
        stop = begin + 1 if stop == begin else stop
        first, last = max(int(begin * fps) - 1, 0), int(stop * fps) - 1
    else:
        first, last = math.ceil(begin * fps), length - 1 if math.isinf(stop) else math.ceil(stop * fps) - 1
    last = min(last, length - 1)
    if first >= length:
        raise _behind(length, fps, start, end, path)
    if first > last:
        raise SampleError(f"{_told(start, end)} has no frame", path=path)
    return first, last


def is_short(start: float | None, end: float | None) -> bool:
    """Whether VideoLLaMA3's loader cuts this clip by frame numbers."""
    return start is not None and end is not None and end - start < SHORT_CLIP


def _checked(
    fps: float, start: float | None, end: float | None, path: str | os.PathLike[str] | None
) -> tuple[float, float]:
    if not _is_rate(fps):
        raise SampleError("the clip has bounds in seconds, but the file states no frame rate", path=path)
    begin = 0.0 if start is None else float(start)
    stop = math.inf if end is None else float(end)
    if math.isnan(begin) or math.isnan(stop) or math.isinf(begin) or begin < 0:
        raise SampleError(f"{_told(start, end)} has a bound that is no time: write seconds from 0", path=path)
    if stop < begin:
        raise SampleError(f"{_told(start, end)} ends before it starts", path=path)
    return begin, stop


def _behind(
    length: int,
    fps: float,
    start: float | None,
    end: float | None,
    path: str | os.PathLike[str] | None,
) -> SampleError:
    return SampleError(f"{_told(start, end)} starts after the video's end at {length / fps:g} s", path=path)


def _told(start: float | None, end: float | None) -> str:
    begin = 0.0 if start is None else float(start)
    return f"the clip from {begin:g} s to {'the end' if end is None else f'{float(end):g} s'}"


def _is_rate(fps: float) -> bool:
    return math.isfinite(fps) and fps > 0
