"""Whether an arm uses time: what frames in another order cost, and what it makes of clips that come in pairs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

from ..flow.controls import SHUFFLED
from .arms import Arm, ScoredSample
from .board import Board, Entry
from .pairing import Paired, paired_answers
from .same_video import joined
from .statistics import Accuracy, share

Pair: TypeAlias = tuple[ScoredSample, ScoredSample]


def temporal_share(entry: Entry) -> tuple[float, float, float] | None:
    """Accuracy of full attention less that of shuffled frames, with its interval; None for any other arm."""
    if entry.test is None or not entry.arm.is_baseline or not entry.arm.frame_order.startswith(SHUFFLED.name):
        return None
    low, high = entry.test.interval(entry.settings.seed, entry.settings.resamples)
    return -entry.test.difference, -high, -low


def pairs(arm: Arm) -> Iterator[Pair]:
    """The questions about two clips that are each other's pair, where both were answered; each pair once."""
    for sample, other in _partners(arm, arm):
        if sample.id < other.id:
            yield sample, other


def both_right(arm: Arm) -> Accuracy:
    """The share of pairs of which both clips were answered right."""
    found = list(pairs(arm))
    return share([_both(pair) for pair in found], _videos_of_pairs(found))


def both_right_change(entry: Entry) -> Paired | None:
    """The same against the baseline, on the pairs that both answered; None where there is none."""
    if entry.baseline is None:
        return None
    before = {_place(pair): _both(pair) for pair in pairs(entry.baseline.arm)}
    common = [pair for pair in pairs(entry.arm) if _place(pair) in before]
    videos = _videos_of_pairs(common)
    found = paired_answers(
        (before[_place(pair)], _both(pair), video) for pair, video in zip(common, videos, strict=True)
    )
    return found if found.common else None


def _both(pair: Pair) -> bool:
    return bool(pair[0].correct and pair[1].correct)


def _place(pair: Pair) -> tuple[str, int]:
    return pair[0].task, pair[0].doc_id


def _videos_of_pairs(found: Sequence[Pair]) -> list[int]:
    """The cluster of each pair: pairs that share a video of either clip are one."""
    return joined([[one.cluster for one in pair] for pair in found])


def turned(entry: Entry) -> Accuracy:
    """Under another order of frames: the share of clips that are answered as their pair's other was as it was filmed.

    Of the clips that were answered otherwise than their pair's other. A reversed clip of something that happens
    forwards in one clip and backwards in the other should turn; a model that does not look at time never does. The two
    clips of a pair are one cluster.
    """
    if entry.baseline is None or not entry.arm.frame_order:
        return Accuracy(0, 0)
    filmed, found, both = entry.baseline.arm, [], []
    for sample, other in _partners(entry.arm, filmed):
        own = filmed.samples.get((sample.task, sample.doc_id))
        if own is not None and own.correct is not None and own.answer.strip() != other.answer.strip():
            found.append(sample.answer.strip() == other.answer.strip())
            both.append((sample, other))
    return share(found, _videos_of_pairs(both))


def _partners(arm: Arm, others: Arm) -> Iterator[Pair]:
    """Each answered question of an arm, with the other arm's about its pair's clip: they were asked the same."""
    by_id = {(sample.task, sample.id): sample for sample in others.answered()}
    for sample in arm.answered():
        other = by_id.get((sample.task, sample.pair)) if sample.pair else None
        if other is not None and other.pair == sample.id and other.question == sample.question:
            yield sample, other


def temporal_rows(board: Board) -> list[tuple[Any, ...]]:
    """A row of each arm of which any is known.

    Label, temporal share and from where it would show, number of pairs, both right, its change and from where that
    would show, turned.
    """
    rows = []
    for entry in board.entries:
        time, both = temporal_share(entry), both_right(entry.arm)
        if not time and not both.total:
            continue
        seen, change = entry.test.detectable if time and entry.test else None, both_right_change(entry)
        rows.append(
            (
                entry.label,
                time,
                seen,
                both.total or None,
                _with_interval(both),
                change
                and (change.difference, *change.interval(entry.settings.seed, entry.settings.resamples)),
                change and change.detectable,
                _with_interval(turned(entry)),
            )
        )
    return rows


def _with_interval(found: Accuracy) -> tuple[float, float, float] | None:
    return (found.value, *found.interval) if found.total else None
