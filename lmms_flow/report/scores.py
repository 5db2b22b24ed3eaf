"""The score of one sample in lmms-eval's log of any task: was it right or wrong?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

# Metrics whose value per sample is a dict without a score: which two fields must agree.
PAIRS = {
    "lvb_acc": ("parsed_pred", "answer"),  # LongVideoBench
    "score": ("pred", "ground_truth"),  # EgoSchema
}
# Where a dict says it itself: MVBench, Video-MME and TOMATO; TempCompass; others.
SCORES = ("score", "rating", "correct", "accuracy", "acc")
# Where a dict says of what kind the question is: Video-MME, LongVideoBench, TOMATO, TempCompass.
CATEGORIES = ("task_category", "question_category", "reason_type", "dim")

COUNTS = ("errors", "skipped", "unreadable")  # of our tasks; they are no scores


def find_metric(lines: Iterable[Mapping[str, Any]], metrics: Iterable[str]) -> str | None:
    """The first of a task's metrics that says right or wrong for all of its samples; None if there is none.

    A metric that is a shade between (a similarity, say) is none: the tests on pairs need right or wrong. Samples
    that failed may lack it.
    """
    lines = list(lines)
    for metric in metrics:
        if metric in COUNTS:
            continue
        values = [line[metric] for line in lines if line.get(metric) is not None]
        if values and all(is_right(metric, value) is not None for value in values):
            return metric
    return None


def is_right(metric: str, value: Any) -> bool | None:
    """What a metric's value of one sample says; None where it says neither right nor wrong."""
    if isinstance(value, Mapping):
        one, other = PAIRS.get(metric, ("", ""))
        if one in value and other in value:
            return bool(value[one] == value[other])
        value = next((value[name] for name in SCORES if name in value), None)
    if isinstance(value, (bool, int, float)) and value in (0, 1):
        return bool(value)
    return None


def category(value: Any) -> str:
    """The kind of the question, where the metric's value tells it."""
    if not isinstance(value, Mapping):
        return ""
    return str(next((value[name] for name in CATEGORIES if value.get(name)), ""))
