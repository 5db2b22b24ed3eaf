"""Intervals that hold for all arms of a board at once, and p values to go with them: max-T.

Whoever looks at fifteen arms sees one far off by chance more often than once in twenty. Holm's adjustment bounds that
whatever the arms have to do with one another. Here it is known: they answer the same questions and share a baseline, so
their differences rise and fall together. The largest of all |difference / error| has its own distribution, a
multivariate Student's t with the correlations of the arms by video (Hothorn, Bretz and Westfall 2008, Biometrical
Journal 50); its 95 % point takes the place of the one of a single arm. The correlations are those of sums over videos,
each weighed by a normal number of its own (the multiplier bootstrap), and the draws are seeded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .arms import Arm
from .clusters import LEVEL, Clustered
from .pairing import both_answered
from .resampling import effective_clusters

DRAWS = 50_000
ROUNDING = 1e-12  # an error that is none
NO_INTERVAL = (float("nan"), float("nan"))


@dataclass(frozen=True)
class Simultaneous:
    """One arm of the family: the interval of its difference that holds together with all others, and its p value."""

    interval: tuple[float, float] = NO_INTERVAL
    p_value: float = float("nan")


@dataclass(frozen=True, eq=False)
class Change:
    """An arm less its baseline: the change of each question, and the names of its videos in the order of clusters."""

    values: Clustered
    videos: tuple[str, ...]

    @classmethod
    def of(cls, arm: Arm, baseline: Arm) -> Change:
        """On the questions that both answered."""
        both = both_answered(arm, baseline)
        videos = [sample.cluster for sample, _ in both]
        values = [float(bool(sample.correct)) - float(bool(other.correct)) for sample, other in both]
        return cls(Clustered.of(values, videos), tuple(dict.fromkeys(videos)))

    @property
    def by_video(self) -> NDArray[np.float64]:
        """What each video contributes to the error of the mean, [video]."""
        found = self.values
        return np.asarray(np.bincount(found.groups, found.values - found.mean), dtype=np.float64)

    @property
    def sizes(self) -> NDArray[np.int64]:
        """How many questions are about each video, [video]."""
        return np.asarray(np.bincount(self.values.groups), dtype=np.int64)

    @property
    def error(self) -> float:
        """The standard error of the mean by the jackknife, which leaves out one video at a time.

        Of videos with as many questions each it is the cluster-robust one.
        """
        sizes, count = self.sizes, self.values.num_clusters
        without = self.by_video / (sizes.sum() - sizes)
        return float(np.sqrt((count - 1) / count * (without**2).sum()))


def simultaneous(changes: Sequence[Change], seed: int = 0, draws: int = DRAWS) -> list[Simultaneous]:
    """The family's intervals at 95 % together, and its single-step adjusted p values.

    Args:
        changes: of each arm against its baseline.
        seed: of the draws.
        draws: of the largest statistic.

    Returns:
        One for each arm; nan of one that was asked about fewer than two videos.
    """
    tested = [one for one in changes if one.values.num_clusters > 1]
    varying = [one for one in tested if one.error > ROUNDING]
    largest = _largest(varying, seed, draws) if varying else np.zeros(1)
    reach = float(np.quantile(largest, LEVEL))
    return [_of(one, reach, largest, len(tested)) for one in changes]


def _largest(changes: Sequence[Change], seed: int, draws: int) -> NDArray[np.float64]:
    """Draws of the largest |t| of all arms where nothing changes, [draw]."""
    videos = {
        name: place for place, name in enumerate(dict.fromkeys(v for one in changes for v in one.videos))
    }
    parts = np.zeros((len(videos), len(changes)))
    for column, one in enumerate(changes):
        parts[[videos[name] for name in one.videos], column] = one.by_video
    parts /= np.sqrt((parts**2).sum(axis=0))
    generator = np.random.default_rng(seed)
    normal = generator.multivariate_normal(
        np.zeros(len(changes)), parts.T @ parts, draws, check_valid="ignore", method="eigh"
    )
    freedom = min(effective_clusters(one.sizes) for one in changes) - 1
    scale = np.sqrt(generator.chisquare(freedom, draws) / freedom)
    drawn: NDArray[np.float64] = np.abs(normal).max(axis=1) / scale
    return drawn


def _of(one: Change, reach: float, largest: NDArray[np.float64], family: int) -> Simultaneous:
    found = one.values
    if found.num_clusters < 2:
        return Simultaneous()
    # As for a single arm: what never differed may differ in a video that was not met.
    floor = 1 - ((1 - LEVEL) / 2 / family) ** (1 / found.num_clusters)
    half = max(reach * one.error, floor)
    interval = max(-1.0, found.mean - half), min(1.0, found.mean + half)
    if not one.error > ROUNDING:  # every question changed alike: there is no statistic
        return Simultaneous(interval, 1.0 if not found.mean else float("nan"))
    beyond = int((largest >= abs(found.mean) / one.error).sum())
    return Simultaneous(interval, (beyond + 1) / (len(largest) + 1))
