"""How lmms-eval sums up counts over the samples of a task and the tasks of a group."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def total(counts: Iterable[int]) -> int:
    """Aggregates a count over the samples of a task."""
    return sum(counts)


def group_total(counts: Sequence[int], sizes: Sequence[int], weight_by_size: bool) -> int:
    """Aggregates a count over the tasks of a group; the host passes sizes and weights to every such function."""
    return sum(counts)
