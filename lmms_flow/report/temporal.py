"""Whether an arm uses time: what frames in another order cost, and what it makes of clips that come in pairs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..flow.controls import SHUFFLED
from .arms import Arm, ScoredSample
from .board import Board, Entry
from .statistics import Accuracy


def temporal_share(entry: Entry) -> tuple[float, float, float] | None:
    """Accuracy of full attention less that of shuffled frames, with its interval; None for any other arm."""
    if entry.test is None or not entry.arm.is_baseline or not entry.arm.frame_order.startswith(SHUFFLED.name):
        return None
    low, high = entry.test.interval(entry.settings.seed, entry.settings.resamples)
    return -entry.test.difference, -high, -low


def pairs(arm: Arm) -> Iterator[tuple[ScoredSample, ScoredSample]]:
    """The questions about two clips that are each other's pair, where both were answered; each pair once."""
    for sample, other in _partners(arm, arm):
        if sample.id < other.id:
            yield sample, other


def both_right(arm: Arm) -> Accuracy:
    """The share of pairs of which both clips were answered right."""
    found = list(pairs(arm))
    return Accuracy(sum(bool(one.correct and two.correct) for one, two in found), len(found))


def turned(entry: Entry) -> Accuracy:
    """Under another order of frames: the share of clips that are answered as their pair's other was as it was filmed.

    Of the clips that were answered otherwise than their pair's other. A reversed clip of something that happens
    forwards in one clip and backwards in the other should turn; a model that does not look at time never does.
    """
    if entry.baseline is None or not entry.arm.frame_order:
        return Accuracy(0, 0)
    filmed, found = entry.baseline.arm, []
    for sample, other in _partners(entry.arm, filmed):
        own = filmed.samples.get((sample.task, sample.doc_id))
        if own is not None and own.correct is not None and own.answer.strip() != other.answer.strip():
            found.append(sample.answer.strip() == other.answer.strip())
    return Accuracy(sum(found), len(found))


def _partners(arm: Arm, others: Arm) -> Iterator[tuple[ScoredSample, ScoredSample]]:
    """Each answered question of an arm, with the other arm's about its pair's clip: they were asked the same."""
    by_id = {(sample.task, sample.id): sample for sample in others.answered()}
    for sample in arm.answered():
        other = by_id.get((sample.task, sample.pair)) if sample.pair else None
        if other is not None and other.pair == sample.id and other.question == sample.question:
            yield sample, other


def temporal_rows(board: Board) -> list[tuple[Any, ...]]:
    """(label, temporal share, number of pairs, both right, turned) of each arm of which any is known."""
    rows = []
    for entry in board.entries:
        share, both, turn = temporal_share(entry), both_right(entry.arm), turned(entry)
        if share or both.total:
            rows.append((entry.label, share, both.total or None, _with_interval(both), _with_interval(turn)))
    return rows


def _with_interval(share: Accuracy) -> tuple[float, float, float] | None:
    return (share.value, *share.interval) if share.total else None
