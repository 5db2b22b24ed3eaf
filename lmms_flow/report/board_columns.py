"""What the tables of a board have in common: their first columns, and columns that several of them have."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from .board import Board
from .table import MODEL as MODEL_HEAD
from .table import Column, Table, p_value, percent

Row = tuple[Any, ...]

ARM = Column(
    "arm",
    lambda label: str(label[0]),
    ("arm", "model", "flow", "flow_digest", "engine", "frames", "frame_order", "protocol"),
    right=False,
)
MODEL = Column(MODEL_HEAD, right=False)  # in a CSV the arm says it
SUBTASK = Column("task", lambda names: str(names[0]), ("task", "task_name"), right=False)
VIDEOS = Column("videos", raw=("videos",), rank=8)
DETECTABLE = Column("shows from", percent, ("detectable",), rank=4)
BY_VIDEO = (
    "questions about one video are one cluster of each interval and test; videos: how many clusters there are"
)
SHOWS_FROM = (
    "shows from: the smallest change, in points, that this run would have found with a chance of 80 %"
)


def p_columns(board: Board, rank: int, short: str = "") -> tuple[Column, Column]:
    """The p value of no change at all, and the same as Holm adjusts it.

    It is McNemar's, or where questions share videos that of sign flips by video: a CSV says which.
    """
    name, raw = ("sign flips", "p_sign_flips") if board.shares_videos else ("McNemar", "p_mcnemar")
    alone = Column(f"p ({name})", p_value, (raw,), rank=rank, short=short)
    return alone, Column("p (Holm)", p_value, (f"{raw}_holm",), rank=rank + 1)


def margin_of(board: Board) -> str:
    """The margin in points: ±2."""
    return f"±{100 * board.settings.margin:g}"


def equivalent(p: float) -> str:
    """Whether it is shown, with its p value."""
    return "" if math.isnan(p) else f"{is_equivalent(p)} ({p_value(p)})"


def is_equivalent(p: float) -> str:
    """Whether it is shown."""
    return "" if math.isnan(p) else "yes" if p < 0.05 else "not shown"


def board_table(
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
