"""The tables of tests: each arm against its baseline, over all questions and by sub-task, and what it makes of time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from .board import Board, Entry, Together
from .board_columns import (
    BY_VIDEO,
    DETECTABLE,
    SHOWS_FROM,
    SUBTASK,
    VIDEOS,
    Row,
    board_table,
    equivalent,
    margin_of,
    p_columns,
)
from .statistics import holm
from .table import Column, Table, change, change_with_interval, p_value, percent, with_interval
from .temporal import temporal_rows


def tests(board: Board) -> Table:
    """Each arm against its baseline, on the questions that both answered."""
    margin, (alone, of_many) = margin_of(board), p_columns(board, rank=2)
    columns = (
        Column("baseline", str, ("baseline",), right=False, rank=4),
        Column("common", raw=("common",), rank=1),
        VIDEOS,
        Column("Δ [95 %]", change_with_interval, ("difference", "difference_low", "difference_high"), rank=3),
        Column("lost", raw=("lost",)),
        Column("won", raw=("won",)),
        alone,
        replace(of_many, rank=5),
        Column("p (max-T)", p_value, ("p_max_t",), rank=6),
        Column(
            "Δ of all arms [95 %]",
            change_with_interval,
            ("difference", "simultaneous_low", "simultaneous_high"),
            rank=7,
        ),
        Column(f"within {margin} (p)", equivalent, ("p_equivalence",), right=False, short=f"within {margin}"),
        DETECTABLE,
        Column("flips", raw=("flips",)),
        Column("sham's flips", raw=("flips_of_sham",), rank=2, short="sham's"),
    )
    rows = [_test(entry, board.together[entry.label]) for entry in board.entries if entry.test]
    notes = (
        f"Δ: percentile bootstrap of {board.settings.resamples:,} resamples (seed {board.settings.seed}); within "
        f"{margin}: two one-sided tests that the difference is smaller than {100 * board.settings.margin:g} points",
        "Δ of all arms: intervals that hold for all arms of a model together (max-T), as p (Holm) and p (max-T) do",
        SHOWS_FROM,
        *((BY_VIDEO,) if board.shares_videos else ()),
    )
    return board_table(board, "tests", "paired tests", columns, rows, notes)


def _test(entry: Entry, together: Together) -> Row:
    test, settings = entry.test, entry.settings
    assert test is not None and entry.baseline is not None  # noqa: PT018  (one thing: it was tested)
    return (
        entry.label,
        entry.baseline.name,
        test.common,
        test.num_clusters,
        (test.difference, *test.interval(settings.seed, settings.resamples)),
        test.lost,
        test.won,
        test.p_value,
        together.holm,
        together.at_once.p_value,
        (test.difference, *together.at_once.interval),
        test.equivalence(settings.margin),
        test.detectable,
        len(entry.flips),
        None if entry.sham is None or entry.sham.baseline is None else len(entry.sham.flips),
    )


def tests_by_subtask(board: Board) -> Table:
    """The same in each sub-task. Holm's adjustment is over the sub-tasks of an arm."""
    alone, of_many = p_columns(board, rank=3)
    columns = (
        SUBTASK,
        Column("common", raw=("common",), rank=1),
        VIDEOS,
        Column("Δ [95 %]", change_with_interval, ("difference", "difference_low", "difference_high")),
        Column("Δ of its right", change, ("change_among_right",), rank=4),
        Column("lost", raw=("lost",), rank=2),
        Column("won", raw=("won",), rank=2),
        alone,
        replace(of_many, rank=0),
        DETECTABLE,
    )
    entries = board.entries if len(board.subtasks) > 1 else ()
    rows = [row for entry in entries for row in _tests_by_subtask(board, entry)]
    return board_table(
        board, "tests-by-task", "paired tests by task", columns, rows, (SHOWS_FROM,) if rows else ()
    )


def _tests_by_subtask(board: Board, entry: Entry) -> Iterator[Row]:
    found = {name: test for name in entry.arm.subtasks if (test := entry.test_of(name))}
    adjusted = holm([test.p_value for test in found.values()])
    for (name, test), p in zip(found.items(), adjusted, strict=True):
        yield (
            entry.label,
            (board.short[name], name),
            test.common,
            test.num_clusters,
            (test.difference, *test.interval(board.settings.seed, board.settings.resamples)),
            test.change_among_right if test.right else None,
            test.lost,
            test.won,
            test.p_value,
            p,
            test.detectable,
        )


def temporal(board: Board) -> Table:
    """What shuffled frames cost, and the clips that come in pairs, such as one and the same played backwards."""
    columns = (
        Column(
            "temporal share [95 %]",
            change_with_interval,
            ("temporal_share", "temporal_share_low", "temporal_share_high"),
        ),
        replace(DETECTABLE, rank=2),
        Column("pairs", raw=("pairs",)),
        Column("both right [95 %]", with_interval, ("both_right", "both_right_low", "both_right_high")),
        Column(
            "Δ both right [95 %]",
            change_with_interval,
            ("both_right_change", "both_right_change_low", "both_right_change_high"),
            rank=1,
        ),
        Column("pairs show from", percent, ("both_right_detectable",), rank=3),
        Column("turned [95 %]", with_interval, ("turned", "turned_low", "turned_high")),
    )
    made = board_table(board, "time", "frame order and pairs of clips", columns, temporal_rows(board))
    return replace(
        made, notes=tuple(_notes_of({column.head.removesuffix(" [95 %]") for column in made.columns}))
    )


def _notes_of(heads: set[str]) -> Iterator[str]:
    """What the columns of the table of time are, of those that it has."""
    told = {
        "temporal share": "full attention less shuffled frames",
        "both right": "of pairs of clips about which the same was asked",
        "turned": "clips that are answered in this order as their pair's other is as it was filmed, of those whose "
        "answers differ",
    }
    kept = [f"{head}: {said}" for head, said in told.items() if head in heads]
    if kept:
        yield "; ".join(kept)
    _, _, meaning = SHOWS_FROM.partition(": ")
    seen = [head for head in ("pairs show from", "shows from") if head in heads]
    if seen:
        yield f"{', '.join(seen)}: {meaning}"
    of_pairs = [head for head in ("both right", "turned") if head in heads]
    if of_pairs:
        yield f"pairs are the units of {' and '.join(of_pairs)}; those that share a video are one cluster"
