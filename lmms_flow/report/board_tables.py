"""The tables of a board: the leaderboard, accuracies by sub-task, paired tests, flips, and samples not scored."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from .board import Board, Entry, Flip
from .statistics import holm
from .table import (
    MODEL as MODEL_HEAD,
)
from .table import (
    Column,
    Table,
    change,
    change_with_interval,
    flops,
    one_line,
    p_value,
    percent,
    with_interval,
)
from .temporal import temporal_rows

Row = tuple[Any, ...]

ARM = Column(
    "arm",
    lambda label: str(label[0]),
    ("arm", "model", "flow", "flow_digest", "engine", "frames", "frame_order", "protocol"),
    right=False,
)
MODEL = Column(MODEL_HEAD, right=False)  # in a CSV the arm says it
SUBTASK = Column("task", lambda names: str(names[0]), ("task", "task_name"), right=False)


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
        Column("p (McNemar)", p_value, ("p_mcnemar",), short="p"),
        Column(f"within {_margin(board)}", _is_equivalent, ("p_equivalence",), rank=2),
        Column("edges kept", lambda share: f"{percent(share)} %", ("share_of_edges_kept",), short="edges"),
        Column("prefill FLOPs", flops, ("flops_per_prefill", "share_of_full_flops"), rank=3),
        Column("seconds + video", _seconds, ("seconds", "shared_seconds"), rank=6),
        Column("errors", raw=("errors",), rank=1 if any(map(_failed, board.entries)) else 7),
        Column("skipped", raw=("skipped",), rank=7),
    )
    rows = [
        (entry.label, *_score(entry, several), *_cost(entry), *_failures(entry)) for entry in board.entries
    ]
    return _table(board, "leaderboard", f"accuracy by arm (%){questions}", columns, rows, board.notes)


def _score(entry: Entry, several: bool) -> Row:
    score, test = entry.accuracy, entry.test
    if not score.total:
        reason = entry.arm.skipped_because
        found: Any = f"skipped: {reason}" if reason else None
        return 0, found, *((None,) if several else ()), None, None, None, None
    settings = entry.settings
    mean = ((entry.macro.value, *entry.macro.interval),) if several else ()
    return (
        score.total,
        (score.value, *score.interval),
        *mean,
        (test.difference, *test.interval(settings.seed, settings.resamples)) if test else None,
        test.among_right.value - 1 if test and test.right else None,
        test.p_value if test else None,
        test.equivalence(settings.margin) if test else None,
    )


def _cost(entry: Entry) -> Row:
    arm, kept = entry.arm, entry.arm.share_kept
    return None if math.isnan(kept) else kept, arm.flops, (arm.seconds, arm.shared_seconds)


def _failures(entry: Entry) -> Row:
    return entry.arm.count("error"), entry.arm.count("skipped")


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


def _margin(board: Board) -> str:
    return f"±{100 * board.settings.margin:g}"


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
    return _table(board, "tasks", f"accuracy by task (%){questions}, Wilson's 95 % intervals", columns, rows)


def _accuracies(entry: Entry, subtasks: Iterable[str]) -> Iterator[Any]:
    for subtask in subtasks:
        score = entry.by_subtask.get(subtask)
        yield (score.value, *score.interval) if score and score.total else None


def tests(board: Board) -> Table:
    """Each arm against its baseline, on the questions that both answered."""
    margin = _margin(board)
    columns = (
        Column("baseline", str, ("baseline",), right=False, rank=4),
        Column("common", raw=("common",), rank=1),
        Column("Δ [95 %]", change_with_interval, ("difference", "difference_low", "difference_high"), rank=3),
        Column("lost", raw=("lost",)),
        Column("won", raw=("won",)),
        Column("p (McNemar)", p_value, ("p_mcnemar",), rank=2),
        Column(
            f"within {margin} (p)", _equivalent, ("p_equivalence",), right=False, short=f"within {margin}"
        ),
        Column("flips", raw=("flips",)),
        Column("sham's flips", raw=("flips_of_sham",), rank=2, short="sham's"),
    )
    rows = [_test(entry) for entry in board.entries if entry.test]
    notes = (
        f"Δ: percentile bootstrap of {board.settings.resamples:,} resamples (seed {board.settings.seed}); within "
        f"{margin}: two one-sided tests that the difference is smaller than {100 * board.settings.margin:g} points",
    )
    return _table(board, "tests", "paired tests", columns, rows, notes)


def _test(entry: Entry) -> Row:
    test, settings = entry.test, entry.settings
    assert test is not None and entry.baseline is not None  # noqa: PT018  (one thing: it was tested)
    return (
        entry.label,
        entry.baseline.name,
        test.common,
        (test.difference, *test.interval(settings.seed, settings.resamples)),
        test.lost,
        test.won,
        test.p_value,
        test.equivalence(settings.margin),
        len(entry.flips),
        None if entry.sham is None or entry.sham.baseline is None else len(entry.sham.flips),
    )


def _equivalent(p: float) -> str:
    return "" if math.isnan(p) else f"{_is_equivalent(p)} ({p_value(p)})"


def _is_equivalent(p: float) -> str:
    return "" if math.isnan(p) else "yes" if p < 0.05 else "not shown"


def tests_by_subtask(board: Board) -> Table:
    """The same in each sub-task. Holm's adjustment is over the sub-tasks of an arm."""
    columns = (
        SUBTASK,
        Column("common", raw=("common",), rank=1),
        Column("Δ [95 %]", change_with_interval, ("difference", "difference_low", "difference_high")),
        Column("Δ of its right", change, ("change_among_right",), rank=4),
        Column("lost", raw=("lost",), rank=2),
        Column("won", raw=("won",), rank=2),
        Column("p (McNemar)", p_value, ("p_mcnemar",), rank=3),
        Column("p (Holm)", p_value, ("p_mcnemar_holm",)),
    )
    entries = board.entries if len(board.subtasks) > 1 else ()
    rows = [row for entry in entries for row in _tests_by_subtask(board, entry)]
    return _table(board, "tests-by-task", "paired tests by task", columns, rows)


def _tests_by_subtask(board: Board, entry: Entry) -> Iterator[Row]:
    found = {name: test for name in entry.arm.subtasks if (test := entry.test_of(name))}
    adjusted = holm([test.p_value for test in found.values()])
    for (name, test), p in zip(found.items(), adjusted, strict=True):
        yield (
            entry.label,
            (board.short[name], name),
            test.common,
            (test.difference, *test.interval(board.settings.seed, board.settings.resamples)),
            test.among_right.value - 1 if test.right else None,
            test.lost,
            test.won,
            test.p_value,
            p,
        )


def temporal(board: Board) -> Table:
    """What shuffled frames cost, and the clips that come in pairs, such as one and the same played backwards."""
    columns = (
        Column(
            "temporal share [95 %]",
            change_with_interval,
            ("temporal_share", "temporal_share_low", "temporal_share_high"),
        ),
        Column("pairs", raw=("pairs",)),
        Column("both right [95 %]", with_interval, ("both_right", "both_right_low", "both_right_high")),
        Column("turned [95 %]", with_interval, ("turned", "turned_low", "turned_high")),
    )
    notes = (
        "temporal share: full attention less shuffled frames; turned: clips that are answered in this order as their "
        "pair's other is as it was filmed, of those whose answers differ",
    )
    return _table(board, "time", "frame order and pairs of clips", columns, temporal_rows(board), notes)


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
    return _table(board, "not-scored", "samples that are not scored", columns, rows)


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
    return _table(board, "flips", "questions answered otherwise than by the baseline", columns, rows)


def _flip(flip: Flip) -> Row:
    after = flip.after
    return after.task, after.doc_id, flip.kind, flip.before.answer, after.answer, after.target


def _table(
    board: Board,
    name: str,
    title: str,
    columns: Iterable[Column],
    rows: Iterable[Row],
    notes: Iterable[str] = (),
) -> Table:
    """A table whose first column is the arm, and before it the model where there are several.

    A column that has no value in any row is left out.
    """
    heads = [ARM, *columns]
    body = [list(row) for row in rows]
    if len(board.checkpoints) > 1:
        heads = [MODEL, *heads]
        body = [[row[0][1], *row] for row in body]
    kept = [place for place in range(len(heads)) if any(row[place] is not None for row in body)]
    whose = f", {board.checkpoints[0]}" if len(board.checkpoints) == 1 else ""
    return Table(
        name,
        f"{board.benchmark}{whose}: {title}",
        tuple(heads[place] for place in kept),
        tuple(tuple(row[place] for place in kept) for row in body),
        tuple(notes),
        board.benchmark,
    )
