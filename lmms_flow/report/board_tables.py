"""The tables of a board: the leaderboard, accuracies by sub-task, paired tests, flips, and samples not scored."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from .board import Board, Entry, Flip
from .board_columns import (
    BY_VIDEO,
    DETECTABLE,
    VIDEOS,
    Row,
    board_table,
    is_equivalent,
    margin_of,
    p_columns,
)
from .table import Column, Table, change, change_with_interval, flops, one_line, percent, with_interval
from .tables_of_tests import temporal, tests, tests_by_subtask


def all_tables(board: Board) -> list[Table]:
    """Every table that has rows, in the order in which they are read."""
    alike = board.alike
    made = [
        *(leaderboard(part, _how_many(part, alike)) for part in alike),
        *(accuracies(part, _how_many(part, alike)) for part in alike),
        tests(board),
        tests_by_subtask(board),
        temporal(board),
        not_scored(board),
        flips(board),
    ]
    return [table for table in made if table.rows]


def _how_many(part: Board, alike: Sequence[Board]) -> str:
    """How many questions the arms of a part of a board were asked; nothing where it is the whole."""
    return f", {len(part.entries[0].arm.samples)} questions" if len(alike) > 1 else ""


def leaderboard(board: Board, questions: str = "") -> Table:
    """A row an arm. One that was skipped as a whole says why in the place of its accuracy."""
    several = len(board.subtasks) > 1
    macro = Column("macro [95 %]", with_interval, ("macro", "macro_low", "macro_high"), rank=4)
    columns = (
        Column("n", raw=("n",)),
        Column(
            "accuracy [95 %]",
            _share_or_reason,
            ("accuracy", "accuracy_low", "accuracy_high"),
            short="accuracy",
            brief=_share_or_skipped,
        ),
        *((macro,) if several else ()),
        Column(
            "Δ baseline [95 %]",
            change_with_interval,
            ("difference", "difference_low", "difference_high"),
            short="Δ [95 %]",
        ),
        Column("Δ of its right", change, ("change_among_right",), rank=5),
        p_columns(board, rank=0, short="p")[0],
        Column(f"within {margin_of(board)}", is_equivalent, ("p_equivalence",), rank=2),
        DETECTABLE,
        Column("edges kept", lambda share: f"{percent(share)} %", ("share_of_edges_kept",), short="edges"),
        Column("prefill FLOPs", flops, ("flops_per_prefill", "share_of_full_flops"), rank=3),
        Column("seconds + video", _seconds, ("seconds", "shared_seconds"), rank=6),
        Column("errors", raw=("errors",), rank=1 if any(map(_failed, board.entries)) else 7),
        Column("skipped", raw=("skipped",), rank=7),
        VIDEOS,
    )
    rows = [(entry.label, *_score(entry, several), *_cost(entry), *_counts(entry)) for entry in board.entries]
    notes = (*board.notes, *((BY_VIDEO,) if board.shares_videos else ()))
    return board_table(board, "leaderboard", f"accuracy by arm (%){questions}", columns, rows, notes)


def _score(entry: Entry, several: bool) -> Row:
    score, test = entry.accuracy, entry.test
    if not score.total:
        reason = entry.arm.skipped_because
        found: Any = f"skipped: {reason}" if reason else None
        return 0, found, *((None,) if several else ()), None, None, None, None, None
    settings = entry.settings
    mean = ((entry.macro.value, *entry.macro.interval),) if several else ()
    return (
        score.total,
        (score.value, *score.interval),
        *mean,
        (test.difference, *test.interval(settings.seed, settings.resamples)) if test else None,
        test.change_among_right if test and test.right else None,
        test.p_value if test else None,
        test.equivalence(settings.margin) if test else None,
        test.detectable if test else None,
    )


def _cost(entry: Entry) -> Row:
    arm, kept = entry.arm, entry.arm.share_kept
    return None if math.isnan(kept) else kept, arm.flops, (arm.seconds, arm.shared_seconds)


def _counts(entry: Entry) -> Row:
    videos = entry.accuracy.num_clusters
    return entry.arm.count("error"), entry.arm.count("skipped"), videos if entry.accuracy.total else None


def _seconds(value: Any) -> str:
    """Of the model, and where it is known of reading and encoding the videos, once for all arms."""
    own, shared = value
    return f"{own:.1f}" if shared is None else f"{own:.1f} + {shared:.1f}"


def _share_or_reason(value: Any) -> str:
    return one_line(value) if isinstance(value, str) else with_interval(value)


def _share_or_skipped(value: Any) -> str:
    """Without its interval; why an arm was skipped stands among the samples that are not scored."""
    return value.partition(":")[0] if isinstance(value, str) else percent(value[0])


def _failed(entry: Entry) -> int:
    return entry.arm.count("error")


def accuracies(board: Board, questions: str = "") -> Table:
    """A row an arm, a column a sub-task; empty where there is but one sub-task."""
    columns = [
        Column(board.short[name], with_interval, (name, f"{name}_low", f"{name}_high"))
        for name in board.subtasks
    ]
    rows = [
        (entry.label, *_accuracies(entry, board.subtasks))
        for entry in board.entries
        if entry.accuracy.total and len(board.subtasks) > 1
    ]
    return board_table(
        board, "tasks", f"accuracy by task (%){questions}, Wilson's 95 % intervals", columns, rows
    )


def _accuracies(entry: Entry, subtasks: Iterable[str]) -> Iterator[Any]:
    for subtask in subtasks:
        score = entry.by_subtask.get(subtask)
        yield (score.value, *score.interval) if score and score.total else None


def not_scored(board: Board) -> Table:
    """The samples that are in no accuracy, and why."""
    columns = (
        Column("task", raw=("task",), right=False),
        Column("document", raw=("document",)),
        Column("status", raw=("status",), right=False),
        Column("reason", lambda reason: one_line(reason, 160), ("reason",), right=False),
    )
    rows = [
        (entry.label, sample.task, sample.doc_id, sample.status, sample.reason)
        for entry in board.entries
        for _, sample in sorted(entry.arm.samples.items())
        if sample.correct is None
    ]
    return board_table(board, "not-scored", "samples that are not scored", columns, rows)


def flips(board: Board) -> Table:
    """The questions that an arm answered otherwise than its baseline."""
    columns = (
        Column("task", raw=("task",), right=False),
        Column("document", raw=("document",)),
        Column("flip", raw=("flip",), right=False),
        Column("baseline's answer", one_line, ("baseline_answer",), right=False),
        Column("answer", one_line, ("answer",), right=False),
        Column("right answer", one_line, ("right_answer",), right=False),
    )
    rows = [(entry.label, *_flip(flip)) for entry in board.entries for flip in entry.flips]
    return board_table(board, "flips", "questions answered otherwise than by the baseline", columns, rows)


def _flip(flip: Flip) -> Row:
    after = flip.after
    return after.task, after.doc_id, flip.kind, flip.before.answer, after.answer, after.target
