"""Accuracies with intervals, and paired differences on the samples that two arms share. All of it is statsmodels'."""

from __future__ import annotations

import math
from dataclasses import dataclass

from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.proportion import proportion_confint

from .runs import Arm, ReportError


@dataclass(frozen=True)
class Accuracy:
    """A share of right answers with its standard error and Wilson's 95 % interval."""

    right: int
    total: int

    @property
    def value(self) -> float:
        return self.right / self.total if self.total else math.nan

    @property
    def error(self) -> float:
        return math.sqrt(self.value * (1 - self.value) / self.total) if self.total else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        if not self.total:
            return math.nan, math.nan
        low, high = proportion_confint(self.right, self.total, method="wilson")
        return float(low), float(high)


@dataclass(frozen=True)
class Paired:
    """An arm against its baseline on the questions that both answered: McNemar's exact test."""

    common: int
    lost: int  # right in the baseline, wrong here
    won: int  # the other way round
    p_value: float

    @property
    def difference(self) -> float:
        return (self.won - self.lost) / self.common if self.common else math.nan


def accuracy(arm: Arm, task: str | None = None) -> Accuracy:
    """The accuracy over the answered samples; errors are left out, not counted as wrong."""
    answered = arm.answered(task)
    return Accuracy(sum(bool(sample.correct) for sample in answered), len(answered))


def paired(arm: Arm, baseline: Arm) -> Paired:
    """Raises ReportError where the two were asked different questions under the same numbers."""
    lost = won = common = 0
    for key, sample in arm.samples.items():
        other = baseline.samples.get(key)
        if other is None or sample.correct is None or other.correct is None:
            continue
        if (sample.doc_hash, sample.prompt_hash) != (other.doc_hash, other.prompt_hash):
            raise ReportError(
                f"{key[0]}, document {key[1]}: the arms {arm.flow!r} and {baseline.flow!r} differ in their prompts"
            )
        common += 1
        lost += other.correct and not sample.correct
        won += sample.correct and not other.correct
    table = [[0, lost], [won, 0]]
    p_value = float(mcnemar(table, exact=True).pvalue) if lost + won else 1.0
    return Paired(common, lost, won, p_value)
