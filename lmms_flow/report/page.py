"""One HTML page of a comparison, with its figures inside: nothing is loaded from elsewhere."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from jinja2 import Environment, PackageLoader, select_autoescape
from matplotlib.figure import Figure

from .. import __version__
from .board import Board
from .figures import accuracy_figure, svg, tradeoff_figure
from .table import Table

FOLDED = ("flips", "not-scored")  # long lists, one fold an arm


@dataclass(frozen=True)
class _Picture:
    source: str  # a data: address
    caption: str


@dataclass(frozen=True)
class _Fold:
    """A part of a long table that is opened by a click."""

    title: str
    table: Table


def html_page(boards: Sequence[tuple[Board, Sequence[Table]]]) -> str:
    """The page of some boards, each with all of its tables."""
    environment = Environment(
        loader=PackageLoader(__package__),
        autoescape=select_autoescape(default=True),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    sections = [
        {
            "benchmark": board.benchmark,
            "models": ", ".join(board.checkpoints),
            "tables": [table for table in tables if table.name not in FOLDED],
            "folds": list(_folds(board, tables)),
            "pictures": list(_pictures(board)),
        }
        for board, tables in boards
    ]
    return environment.get_template("report.html").render(sections=sections, version=__version__)


def _pictures(board: Board) -> Iterator[_Picture]:
    if any(entry.accuracy.total for entry in board.entries):
        yield _picture(accuracy_figure(board), "Accuracy by arm and task, with Wilson's 95 % intervals.")
    tradeoff = tradeoff_figure(board)
    if tradeoff is not None:
        yield _picture(tradeoff, "Accuracy against the share of attention edges that is kept.")


def _picture(figure: Figure, caption: str) -> _Picture:
    data = base64.b64encode(svg(figure).encode()).decode()
    return _Picture(f"data:image/svg+xml;base64,{data}", caption)


def _folds(board: Board, tables: Sequence[Table]) -> Iterator[_Fold]:
    for table in tables:
        if table.name not in FOLDED:
            continue
        arm = next(place for place, column in enumerate(table.columns) if column.head == "arm")
        for label, rows in groupby(table.rows, key=lambda row: row[arm]):
            part = tuple(rows)
            what = table.title.removeprefix(f"{board.benchmark}: ")
            title = f"{label[0]}: {len(part)} {what.rpartition(': ')[2]}"
            yield _Fold(title, Table(table.name, title, table.columns, part, table.notes, table.benchmark))
