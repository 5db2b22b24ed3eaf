"""Accuracies with intervals, and paired differences on the questions that two arms share.

The tests are statsmodels', but for that of equivalence (`equivalence.py`). Intervals of means and differences are
bootstrap percentiles over questions. To draw n questions with replacement and to count the right ones is one draw from
a binomial distribution (a multinomial one for pairs of answers), so the counts are drawn themselves: the same
distribution, and no question is touched.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from .arms import Arm
from .equivalence import equivalence

Interval = tuple[float, float]
RESAMPLES = 20_000
NOTHING = (math.nan, math.nan)


@dataclass(frozen=True)
class Accuracy:
    """A share of right answers with its standard error and Wilson's 95 % interval."""

    right: int
    total: int

    @property
    def value(self) -> float:
        """The share that is right; nan of no question."""
        return self.right / self.total if self.total else math.nan

    @property
    def error(self) -> float:
        """The standard error of the share."""
        return math.sqrt(self.value * (1 - self.value) / self.total) if self.total else math.nan

    @property
    def interval(self) -> Interval:
        """Wilson's interval of the share, at 95 %."""
        if not self.total:
            return NOTHING
        low, high = proportion_confint(self.right, self.total, method="wilson")
        return float(low), float(high)


@dataclass(frozen=True)
class Mean:
    """A mean of accuracies with its 95 % interval."""

    value: float
    interval: Interval


@dataclass(frozen=True)
class Paired:
    """An arm against its baseline on the questions that both answered."""

    common: int
    right: int  # of the baseline, among them
    lost: int  # right in the baseline, wrong here
    won: int  # the other way round

    @property
    def difference(self) -> float:
        """The change of the share: what was won less what was lost, of the common questions."""
        return (self.won - self.lost) / self.common if self.common else math.nan

    @property
    def p_value(self) -> float:
        """McNemar's exact test that as many are lost as are won; 1 where no question flipped."""
        if not self.lost + self.won:
            return 1.0
        return float(mcnemar([[0, self.lost], [self.won, 0]], exact=True).pvalue)

    @property
    def among_right(self) -> Accuracy:
        """The accuracy on the questions that the baseline answered right; the paper's Table 2 is this minus 100 %."""
        return Accuracy(self.right - self.lost, self.right)

    def interval(self, seed: int = 0, resamples: int = RESAMPLES) -> Interval:
        """Of the difference: the 95 % percentile bootstrap over the common questions."""
        if not self.common:
            return NOTHING
        shares = [self.won / self.common, self.lost / self.common, 0.0]
        shares[2] = max(0.0, 1 - shares[0] - shares[1])
        drawn = np.random.default_rng(seed).multinomial(self.common, shares, size=resamples)
        return _percentiles((drawn[:, 0] - drawn[:, 1]) / self.common)

    def equivalence(self, margin: float) -> float:
        """The p value of two one-sided tests that the difference lies outside of -margin to +margin (TOST, exact)."""
        return equivalence(self.lost, self.won, self.common, margin)


def accuracy(arm: Arm, subtask: str | None = None) -> Accuracy:
    """The accuracy over the answered questions; errors are left out, not counted as wrong."""
    answered = arm.answered(subtask)
    return Accuracy(sum(bool(sample.correct) for sample in answered), len(answered))


def macro(parts: Iterable[Accuracy], seed: int = 0, resamples: int = RESAMPLES) -> Mean:
    """The mean of the sub-tasks' accuracies, each weighing the same; its bootstrap draws within each sub-task."""
    scored = [part for part in parts if part.total]
    if not scored:
        return Mean(math.nan, NOTHING)
    totals = np.array([part.total for part in scored])
    shares = np.array([part.value for part in scored])
    drawn = np.random.default_rng(seed).binomial(totals, shares, size=(resamples, len(scored)))
    return Mean(float(shares.mean()), _percentiles((drawn / totals).mean(axis=1)))


def paired(arm: Arm, baseline: Arm, subtask: str | None = None) -> Paired:
    """The questions of one sub-task, or of all, that both arms answered."""
    common = right = lost = won = 0
    for sample in arm.answered(subtask):
        other = baseline.samples.get((sample.task, sample.doc_id))
        if other is None or other.correct is None:
            continue
        common += 1
        right += other.correct
        lost += other.correct and not sample.correct
        won += bool(sample.correct) and not other.correct
    return Paired(common, right, lost, won)


def holm(p_values: Sequence[float]) -> list[float]:
    """The p values of one family of tests, adjusted by Holm's method; nan stays out of the family."""
    tested = [place for place, p in enumerate(p_values) if not math.isnan(p)]
    adjusted = list(p_values)
    if tested:
        corrected = multipletests([p_values[place] for place in tested], method="holm")[1]
        for place, p in zip(tested, corrected, strict=True):
            adjusted[place] = float(p)
    return adjusted


def _percentiles(values: np.ndarray) -> Interval:
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)
