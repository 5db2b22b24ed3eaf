"""The boards of the page: leaderboards with their tests, accuracies drawn, and the ledger of what each arm cost."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import groupby

from matplotlib.figure import Figure

from ...plots import ZERO, literal, other_style
from ..board import Board, Entry
from ..statistics import Accuracy
from ..table import Column, Table, flops, one_line, percent
from .parts import Block, Section, short_checkpoint
from .pictures import PANEL, Picture, slug

LONG = ("tests-by-task",)  # behind a click as a whole
MOST_ROWS = 100  # of a fold
FOLDED = ("flips", "not-scored")  # long lists, one fold an arm
LEAD = (
    "How much of the benchmark's score is left when edges are cut: a row an arm. Accuracies are in per cent with "
    "Wilson's 95 % intervals in brackets, differences in points on the questions that both arms answered. What "
    "failed or was skipped is in no accuracy."
)


def board_sections(
    made: Sequence[tuple[Board, Sequence[Table]]], commands: Sequence[str]
) -> Iterator[Section]:
    """A section a benchmark."""
    for board, tables in made:
        whole = [table for table in tables if table.name not in FOLDED]
        first = [table for table in whole if table.name == "leaderboard"]
        rest = [table for table in whole if table.name != "leaderboard"]
        blocks = [Block(table=table) for table in first]
        blocks += [Block(pictures=tuple(pictures(board)))]
        blocks += [Block(table=table, fold=table.title if table.name in LONG else "") for table in rest]
        blocks += list(_folds(board, tables))
        name = slug("board", board.benchmark)
        yield Section(name, f"Leaderboard: {board.benchmark}", LEAD, tuple(blocks), tuple(commands))


def _folds(board: Board, tables: Sequence[Table]) -> Iterator[Block]:
    for table in tables:
        if table.name != "not-scored":  # what flipped has a card each
            continue
        arm = next(place for place, column in enumerate(table.columns) if column.head == "arm")
        for label, rows in groupby(table.rows, key=lambda row: row[arm]):
            part = tuple(rows)
            rest = len(part) - MOST_ROWS
            notes = (*table.notes, *([f"and {rest} more, in not-scored.csv"] if rest > 0 else []))
            what = table.title.removeprefix(f"{board.benchmark}: ").rpartition(": ")[2]
            title = f"{label[0]}: {len(part)} {what}"
            shown = Table(table.name, title, table.columns, part[:MOST_ROWS], notes, table.benchmark)
            yield Block(shown, fold=title)


def pictures(board: Board) -> Iterator[Picture]:
    """Accuracy of all questions and of each sub-task, and accuracy against the edges that are kept."""
    for part in board.alike:
        entries = [entry for entry in part.entries if entry.accuracy.total]
        panels: list[str | None] = [None, *(part.subtasks if len(part.subtasks) > 1 else ())]
        for subtask in panels if entries else ():
            yield _accuracy(board, entries, subtask)
        drawn = [
            entry
            for entry in entries
            if not math.isnan(entry.arm.share_kept) and entry.arm.is_of_the_whole_clip
        ]
        if len(drawn) > 1:
            yield _tradeoff(board, drawn)


def _accuracy(board: Board, entries: Sequence[Entry], subtask: str | None) -> Picture:
    """Dashed: the first arm, which is full attention where there is one. Dotted: guessing."""
    figure = Figure(figsize=(PANEL[0], 0.95 + 0.22 * len(entries)), layout="constrained")
    axes = figure.subplots()
    told = []
    models = board.checkpoints
    scores = [_score(entry, subtask) for entry in entries]
    for row, (entry, score) in enumerate(zip(entries, scores, strict=True)):
        if score.total:
            style = other_style(models.index(entry.arm.checkpoint))
            axes.errorbar(
                100 * score.value,
                row,
                xerr=_bars(score),
                fmt=style.marker,
                ms=4,
                capsize=2,
                elinewidth=1.2,
                color=style.colour,
            )
            told.append(f"{_name(board, entry)} {percent(score.value)} %")
    if scores[0].total:
        axes.axvline(100 * scores[0].value, color=ZERO, lw=0.8, ls="--", zorder=0)
    chance = entries[0].arm.chance(subtask)
    if not math.isnan(chance):
        axes.axvline(100 * chance, color=ZERO, lw=1.2, ls=":", zorder=0)
    axes.set_yticks(range(len(entries)), [literal(_name(board, entry)) for entry in entries], fontsize=7.5)
    axes.set_ylim(len(entries) - 0.5, -0.5)
    axes.set_xlim(-2, 102)
    axes.set_xlabel("accuracy (%)")
    what = "all questions" if subtask is None else one_line(board.short[subtask], 40)
    axes.set_title(literal(what), loc="left")
    axes.grid(axis="x", color=ZERO, alpha=0.25, lw=0.6)
    caption = (
        f"{board.benchmark}, {what}: accuracy with 95 % intervals; dashed: {_name(board, entries[0])}, dotted: "
        "guessing."
    )
    number = len(entries[0].arm.samples)
    name = slug(board.benchmark, "accuracy", subtask or "all", number)
    return Picture(name, caption, f"Accuracy on {what}: {'; '.join(told)}.", figure)


def _score(entry: Entry, subtask: str | None) -> Accuracy:
    return entry.accuracy if subtask is None else entry.by_subtask.get(subtask, Accuracy(0, 0))


def _bars(score: Accuracy) -> list[list[float]]:
    low, high = score.interval
    return [[100 * max(0.0, score.value - low)], [100 * max(0.0, high - score.value)]]


def _name(board: Board, entry: Entry) -> str:
    model = f"{short_checkpoint(entry.arm.checkpoint)}: " if len(board.checkpoints) > 1 else ""
    return one_line(f"{model}{entry.name}", 36)


def _tradeoff(board: Board, entries: Sequence[Entry]) -> Picture:
    figure = Figure(figsize=(PANEL[0], 2.5 + 0.17 * len(entries)), layout="constrained")
    axes = figure.subplots()
    told = []
    for place, entry in enumerate(entries):
        style, kept = other_style(place), 100 * entry.arm.share_kept
        axes.errorbar(
            kept,
            100 * entry.accuracy.value,
            yerr=_bars(entry.accuracy),
            fmt=style.marker,
            ms=6,
            capsize=2,
            elinewidth=0.9,
            color=style.colour,
            label=literal(_name(board, entry)),
        )
        told.append(f"{_name(board, entry)} keeps {kept:.1f} % and has {percent(entry.accuracy.value)} %")
    axes.set_xlabel("attention edges kept (%)")
    axes.set_ylabel("accuracy (%)")
    axes.grid(color=ZERO, alpha=0.25, lw=0.6)
    figure.legend(loc="outside lower left", fontsize="small", ncols=1)
    caption = (
        f"{board.benchmark}: accuracy against the share of attention edges that is kept, with 95 % intervals; equal "
        "arms cover one another."
    )
    name = slug(board.benchmark, "tradeoff", len(entries[0].arm.samples))
    return Picture(name, caption, f"{caption} {'; '.join(told)}.", figure)


# The ledger


def ledger_section(boards: Sequence[Board], commands: Sequence[str]) -> Section:
    """What each arm cost."""
    lead = (
        "What each arm cost. Prefill FLOPs are the arithmetic to read a prompt, counted from what is computed of "
        "it, each arm as if it ran alone. Seconds are of the model alone; a video is read and encoded once for all "
        "arms of a question."
    )
    return Section(
        "ledger", "The ledger", lead, tuple(Block(table=_ledger(board)) for board in boards), tuple(commands)
    )


def _ledger(board: Board) -> Table:
    columns = (
        Column("arm", right=False, raw=("arm",)),
        Column("engine", right=False, raw=("engine",)),
        Column("questions", raw=("questions",)),
        Column("edges kept", lambda share: f"{percent(share)} %", ("share_of_edges_kept",)),
        Column("prefill FLOPs", flops, ("flops_per_prefill", "share_of_full_flops")),
        Column("seconds", lambda value: f"{value:.1f}", ("seconds",)),
        Column("ms a question", lambda value: f"{value:.0f}", ("milliseconds_per_question",)),
        Column("video, ms a question", lambda value: f"{value:.0f}", ("shared_milliseconds_per_question",)),
        Column("errors", raw=("errors",)),
        Column("skipped", raw=("skipped",)),
    )
    rows = []
    for entry in board.entries:
        arm, answered = entry.arm, len(entry.arm.answered())
        shared = arm.shared_seconds
        rows.append(
            (
                _name(board, entry),
                arm.engine,
                len(arm.samples),
                None if math.isnan(arm.share_kept) else arm.share_kept,
                arm.flops,
                arm.seconds,
                1000 * arm.seconds / answered if answered else None,
                1000 * shared / answered if answered and shared is not None else None,
                arm.count("error"),
                arm.count("skipped"),
            )
        )
    return Table("ledger", f"{board.benchmark}: ledger", columns, tuple(rows), (), board.benchmark)
