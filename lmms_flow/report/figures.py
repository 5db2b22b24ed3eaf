"""Figures of a board: accuracy by arm and sub-task with intervals, and accuracy against the edges that are kept."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib import colormaps, rc_context
from matplotlib.figure import Figure

from ..plots import MARKERS, SETTINGS, literal
from .board import Board, Entry
from .statistics import Accuracy
from .table import one_line

PANELS_IN_A_ROW = 4


def accuracy_figure(board: Board) -> Figure:
    """A panel for all questions and one a sub-task; a row an arm, with Wilson's 95 % interval.

    Dashed: the first arm, which is full attention where there is one. Dotted: guessing.
    """
    entries = [entry for entry in board.entries if entry.accuracy.total]
    panels: list[str | None] = [None, *(board.subtasks if len(board.subtasks) > 1 else ())]
    columns = min(PANELS_IN_A_ROW, len(panels))
    lines = math.ceil(len(panels) / columns)
    size = (2.2 + 2.3 * columns, lines * (0.9 + 0.24 * len(entries)) + 0.3)
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(lines, columns, squeeze=False)
    for place, axes in enumerate(grid.flat):
        if place >= len(panels):
            axes.set_visible(False)
            continue
        _panel(axes, board, entries, panels[place], with_names=place % columns == 0)
    figure.supxlabel("accuracy (%), 95 % intervals; dashed: first arm, dotted: guessing", fontsize="small")
    return figure


def draw_accuracies(board: Board, axes: Any) -> Any:
    """One panel: the accuracy over all questions, a row an arm; returns the axes."""
    entries = [entry for entry in board.entries if entry.accuracy.total]
    _panel(axes, board, entries, None, with_names=True)
    axes.set_xlabel("accuracy (%), 95 % intervals", fontsize="small")
    return axes


def _panel(
    axes: Any, board: Board, entries: Sequence[Entry], subtask: str | None, *, with_names: bool
) -> None:
    scores = [
        entry.accuracy if subtask is None else entry.by_subtask.get(subtask, Accuracy(0, 0))
        for entry in entries
    ]
    colours = _colours(board)
    for row, (entry, score) in enumerate(zip(entries, scores, strict=True)):
        if score.total:
            axes.errorbar(
                100 * score.value,
                row,
                xerr=_bars(score),
                fmt="o",
                ms=4,
                capsize=2,
                elinewidth=1,
                color=colours[entry.arm.checkpoint],
            )
    if scores and scores[0].total:
        axes.axvline(100 * scores[0].value, color="#777777", lw=0.8, ls="--", zorder=0)
    chance = entries[0].arm.chance(subtask) if entries else math.nan
    if not math.isnan(chance):
        axes.axvline(100 * chance, color="black", lw=0.8, ls=":", zorder=0)
    axes.set_title(
        "all questions" if subtask is None else literal(one_line(board.short[subtask], 32)), fontsize="small"
    )
    axes.set_yticks(range(len(entries)), [_label(board, entry) for entry in entries] if with_names else [])
    axes.set_ylim(len(entries) - 0.5, -0.5)
    axes.set_xlim(-2, 102)
    axes.tick_params(labelsize="small")
    axes.grid(axis="x", alpha=0.25)


def tradeoff_figure(board: Board) -> Figure | None:
    """Accuracy against the share of edges that is kept (the paper's Table 3); None where fewer than two arms say it."""
    entries = [
        entry
        for entry in board.entries
        if entry.accuracy.total and not math.isnan(entry.arm.share_kept) and entry.arm.is_of_the_whole_clip
    ]
    if len(entries) < 2:
        return None
    figure = Figure(figsize=(8.2, max(3.6, 0.26 * len(entries) + 0.8)), layout="constrained")
    axes = figure.subplots()
    for place, entry in enumerate(entries):
        axes.errorbar(
            100 * entry.arm.share_kept,
            100 * entry.accuracy.value,
            yerr=_bars(entry.accuracy),
            fmt=MARKERS[place % len(MARKERS)],
            ms=6,
            capsize=2,
            elinewidth=0.9,
            color=colormaps["tab20"](place % 20),
            label=_label(board, entry),
        )
    axes.set_xlabel("attention edges kept (%)")
    axes.set_ylabel("accuracy (%), 95 % intervals")
    axes.grid(alpha=0.25)
    figure.legend(loc="outside right upper", fontsize="small", frameon=False)
    return figure


def save(figure: Figure, file: Path) -> Path:
    """Writes a figure in the format of the file's ending, such as .png, .svg or .pdf."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with rc_context(SETTINGS):
        figure.savefig(file, dpi=150)
    return file


def svg(figure: Figure) -> str:
    """A figure as the text of an SVG, without a date."""
    text = io.StringIO()
    with rc_context(SETTINGS):
        figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()


def _bars(score: Accuracy) -> list[list[float]]:
    """The interval as matplotlib takes it: distances below and above."""
    low, high = score.interval
    return [[100 * max(0.0, score.value - low)], [100 * max(0.0, high - score.value)]]


def _colours(board: Board) -> dict[str, Any]:
    return {name: colormaps["tab10"](place % 10) for place, name in enumerate(board.checkpoints)}


def _label(board: Board, entry: Entry) -> str:
    model = f"{entry.arm.checkpoint.rpartition('/')[2]}: " if len(board.checkpoints) > 1 else ""
    return literal(one_line(f"{model}{entry.name}", 52))
