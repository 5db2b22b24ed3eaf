"""Accuracies with intervals, means over sub-tasks, and Holm's adjustment.

Questions about one video are no independent samples: they are one cluster of every interval (docs/leaderboard.md).
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import norm
from scipy.stats import t as student
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from .arms import Arm
from .clusters import Clustered
from .resampling import TAIL, Interval, drawn_by_cluster, percentiles, wider_than_draws

RESAMPLES = 20_000
NOTHING = (math.nan, math.nan)


@dataclass(frozen=True)
class Accuracy:
    """A share of right answers with its standard error and Wilson's 95 % interval.

    `videos` are how many clusters the questions come in; None: each is about a video of its own. `design` is the design
    effect: by how much the share varies more than that of independent questions.
    """

    right: int
    total: int
    videos: int | None = None
    design: float = 1.0

    @property
    def num_clusters(self) -> int:
        """How many videos the questions are about."""
        return self.total if self.videos is None else self.videos

    @property
    def value(self) -> float:
        """The share that is right; nan of no question."""
        return self.right / self.total if self.total else math.nan

    @property
    def error(self) -> float:
        """The standard error of the share, cluster-robust where questions share videos."""
        if not self.total or self.videos == 1:
            return math.nan
        return math.sqrt(self.value * (1 - self.value) * self.design / self.total)

    @property
    def interval(self) -> Interval:
        """Wilson's interval of the share, at 95 %; of clustered questions on their effective number.

        That is the number divided by the design effect, and less for few clusters, as Student's t is wider than the
        normal distribution (Korn and Graubard 1998). One video says nothing.
        """
        if not self.total:
            return NOTHING
        if self.videos is None:
            low, high = proportion_confint(self.right, self.total, method="wilson")
            return float(low), float(high)
        if self.videos < 2:
            return 0.0, 1.0
        effective = self.total / (max(1.0, self.design) * wider_for_few(self.videos, TAIL))
        low, high = proportion_confint(self.value * effective, effective, method="wilson")
        return float(low), float(high)


def wider_for_few(clusters: int, tail: float) -> float:
    """By how much Student's t is wider than the normal distribution, squared."""
    return float((student.isf(tail, clusters - 1) / norm.isf(tail)) ** 2)


@dataclass(frozen=True)
class Mean:
    """A mean of accuracies with its 95 % interval."""

    value: float
    interval: Interval


def share(right: Sequence[bool], videos: Sequence[Hashable]) -> Accuracy:
    """A share of right answers, each with the video that it is about."""
    total, found = len(right), Clustered.of([float(one) for one in right], videos)
    if found.num_clusters == total:
        return Accuracy(sum(right), total)
    alone = found.values.var() / total
    if alone and found.num_clusters > 1:
        design = found.error**2 / alone
    else:  # none differs, and nothing says how alike those about one video are: as if they were the same
        design = float((np.bincount(found.groups) ** 2).sum() / total)
    return Accuracy(sum(right), total, found.num_clusters, design)


def accuracy(arm: Arm, subtask: str | None = None) -> Accuracy:
    """The accuracy over the answered questions; errors are left out, not counted as wrong."""
    answered = arm.answered(subtask)
    return share([bool(sample.correct) for sample in answered], [sample.cluster for sample in answered])


def macro(parts: Iterable[Accuracy], seed: int = 0, resamples: int = RESAMPLES) -> Mean:
    """The mean of the sub-tasks' accuracies, each weighing the same; its bootstrap draws within each sub-task.

    For questions that share no video; see :func:`macro_by_video`.
    """
    scored = [part for part in parts if part.total]
    if not scored:
        return Mean(math.nan, NOTHING)
    totals = np.array([part.total for part in scored])
    shares = np.array([part.value for part in scored])
    drawn = np.random.default_rng(seed).binomial(totals, shares, size=(resamples, len(scored)))
    return Mean(float(shares.mean()), percentiles((drawn / totals).mean(axis=1)))


def macro_by_video(arm: Arm, seed: int = 0, resamples: int = RESAMPLES) -> Mean:
    """The same of any arm: whole videos are drawn, which may have questions in several sub-tasks."""
    answered, subtasks = arm.answered(), arm.subtasks
    videos = {name: place for place, name in enumerate(dict.fromkeys(one.cluster for one in answered))}
    if len(videos) == len(answered):
        return macro((accuracy(arm, subtask) for subtask in subtasks), seed, resamples)
    counts = np.zeros((len(videos), 2, len(subtasks)), dtype=np.int64)  # right and asked of each sub-task
    for sample in answered:
        cell = counts[videos[sample.cluster], :, subtasks.index(sample.subtask)]
        cell += (int(bool(sample.correct)), 1)
    right, asked = counts.sum(axis=0)
    value = float((right / np.where(asked, asked, np.nan))[asked > 0].mean())
    if len(videos) < 2:
        return Mean(value, (0.0, 1.0))
    drawn = drawn_by_cluster(counts.reshape(len(videos), -1), resamples, seed).reshape(resamples, 2, -1)
    shares = drawn[:, 0] / np.where(drawn[:, 1], drawn[:, 1], np.nan)  # a draw may lack a sub-task
    means = np.nanmean(shares[:, asked > 0], axis=1)
    sums = counts.sum(axis=2)  # right and asked of each video
    return Mean(value, percentiles(means, wider_than_draws(sums[:, 0], sums[:, 1])))


def holm(p_values: Sequence[float]) -> list[float]:
    """The p values of one family of tests, adjusted by Holm's method; nan stays out of the family."""
    tested = [place for place, p in enumerate(p_values) if not math.isnan(p)]
    adjusted = list(p_values)
    if tested:
        corrected = multipletests([p_values[place] for place in tested], method="holm")[1]
        for place, p in zip(tested, corrected, strict=True):
            adjusted[place] = float(p)
    return adjusted
