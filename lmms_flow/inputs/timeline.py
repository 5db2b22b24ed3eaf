"""When the frames of a video are shown: from seconds to frame numbers, also where the frame rate varies."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

HALF_A_FRAME = (
    0.5  # a frame that is shown this far from where the frame rate puts it makes the rate a variable one
)


@dataclass(frozen=True, eq=False)
class Timeline:
    """``times`` are the seconds of every frame, the first at 0; ``fps`` is the average frame rate (nan: unknown)."""

    times: np.ndarray
    fps: float
    is_variable: bool

    @property
    def length(self) -> int:
        """How many frames are shown."""
        return len(self.times)

    def at_rate(self, seconds: float | None) -> float | None:
        """The time at which a constant frame rate would show what is shown at ``seconds``.

        Rules that count frames by the rate take the right ones with it.
        """
        if seconds is None or not self.is_variable or not math.isfinite(seconds):
            return seconds
        usual = 1 / self.fps
        places = np.arange(self.length + 1)
        until = np.append(self.times, self.times[-1] + usual)
        if seconds > until[-1]:
            return float(self.length + (seconds - until[-1]) * self.fps) / self.fps
        return float(np.interp(seconds, until, places)) / self.fps

    def seconds(self, indices: Sequence[int]) -> tuple[float, ...]:
        """The times at which these frames are shown, from the video's start."""
        if self.is_variable:
            return tuple(round(float(self.times[index]), 4) for index in indices)
        return tuple(round(index / self.fps, 4) for index in indices)


def timeline(times: Sequence[float], rate: float) -> Timeline:
    """A timeline of frames that are shown at ``times``; ``rate`` is what the container states.

    It is taken where the times fit it, else the rate that they have themselves.
    """
    shown = np.asarray(times, dtype=float)
    shown = shown - shown[0]
    own = (len(shown) - 1) / shown[-1] if len(shown) > 1 and shown[-1] > 0 else math.nan
    for fps in (rate, own):
        if math.isfinite(fps) and fps > 0 and _fits(shown, fps):
            return Timeline(shown, fps, False)
    stated = math.isfinite(rate) and rate > 0 and (math.isnan(own) or abs(rate / own - 1) < 0.1)
    fps = rate if stated else own
    return Timeline(shown, fps, math.isfinite(fps) and len(shown) > 1)


def _fits(times: np.ndarray, fps: float) -> bool:
    return float(np.abs(times * fps - np.arange(len(times))).max()) < HALF_A_FRAME
