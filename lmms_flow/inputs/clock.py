"""The seconds at which VideoLLaMA3's loader says that its frames stand: its prompt names them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lmms_flow.inputs.opening import open_video
from lmms_flow.inputs.sampling import is_short, timed_bounds

MICROSECONDS = 1_000_000  # containers state their duration in them


@dataclass(frozen=True)
class Clock:
    """What a container states: its whole `duration`, sound included, and where its video begins; in seconds."""

    duration: float
    begin: float = 0.0


def read_clock(path: str | os.PathLike[str]) -> Clock | None:
    """By the header, without decoding; None where it states no duration."""
    with open_video(path) as container:
        duration, stream = container.duration, container.streams.video[0]
        begin = float((stream.start_time or 0) * (stream.time_base or 0))
    return Clock(duration / MICROSECONDS, begin) if duration else None


def shown_times(
    indices: Sequence[int],
    length: int,
    fps: float,
    clock: Clock,
    start: float | None = None,
    end: float | None = None,
) -> tuple[float, ...]:
    """The seconds of frames that were taken of the clip from `start` to `end` of a video of `length` frames.

    The loader spreads the duration evenly over all frames of the clip, the first one at its start and the last one at
    its end; where the clip has no end, or one behind the file's, it is the container's whole duration that is spread.
    The frames of a clip shorter than a second stand where the frame rate puts them.
    """
    if is_short(start, end):
        return tuple(index / fps for index in indices)
    first, last = timed_bounds(length, fps, start, end)
    begin = clock.begin if start is None else max(clock.begin, start)
    spread = clock.duration if start is None else clock.duration - (begin - start)
    if end is not None:
        spread = min(spread, end - begin)
    times = np.linspace(begin, begin + spread, last - first + 1)
    return tuple(times[np.asarray(indices) - first].tolist())


def printed(seconds: float) -> str:
    """One decimal, as numpy rounds it: 0.25 to 0.2 and 0.35 to 0.4, x.x5 to the even digit."""
    return f"{np.round(seconds, 1):.1f}"
