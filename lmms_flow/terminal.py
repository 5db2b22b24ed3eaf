"""What is printed: tables that fit the terminal, all columns where nobody's screen is in the way."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

UNBOUNDED = 100_000  # columns of text: of a pipe, a file, `--wide`
BETWEEN = 2  # spaces between two columns of a table
LEAST = 12  # what folding leaves of a column of words
MANY = 40  # rows of a list that a screen is for


@dataclass(frozen=True)
class TextColumn:
    """A column as it is printed: heads may have several lines, cells have one.

    Args:
        head: above the cells.
        cells: one a row.
        right: whether the cells are aligned to the right, as numbers are; those are never folded.
        rank: where there is no room the column of the highest rank leaves first; one of rank 0 stays.
        brief_head, brief_cells: what stands where there is little room.
    """

    head: str
    cells: tuple[str, ...]
    right: bool = False
    rank: int = 0
    brief_head: str = ""
    brief_cells: tuple[str, ...] = ()

    @property
    def width(self) -> int:
        """Columns of text that it needs."""
        from rich.cells import cell_len

        return max(map(cell_len, (*self.head.split("\n"), *self.cells)))

    @property
    def least(self) -> int:
        """Columns of text that it needs where its cells may be folded."""
        return self.width if self.right else min(self.width, LEAST)

    def brief(self) -> TextColumn:
        """As it is printed where there is little room."""
        return replace(self, head=self.brief_head or self.head, cells=self.brief_cells or self.cells)


@dataclass(frozen=True)
class TextTable:
    """Columns of equally many cells; `notes` stand below."""

    title: str
    columns: tuple[TextColumn, ...]
    notes: tuple[str, ...] = ()

    @property
    def width(self) -> int:
        """Columns of text that it needs."""
        return _width(self.columns)

    def fitted(self, width: int) -> tuple[TextTable, tuple[str, ...]]:
        """The same within `width`, and the heads of the columns that there is no room for.

        Columns leave first, then the others are written more briefly, and only what still does not fit is folded. A
        note that begins with the heads that it explains ("shows from: ...") leaves with the last of these columns.
        """
        ranks = sorted({0, *(column.rank for column in self.columns)}, reverse=True)
        for columns in (self.columns, tuple(column.brief() for column in self.columns)):
            for most in ranks:
                kept = tuple(column for column in columns if column.rank <= most)
                left = tuple(column.head for column in self.columns if column.rank > most)
                fitted = replace(self, columns=kept, notes=self._notes(left))
                if _width(kept) <= width:
                    return fitted, left
        return fitted, left

    def _notes(self, left: Sequence[str]) -> tuple[str, ...]:
        gone = set(map(_bare, left))
        seen = {_bare(column.head) for column in self.columns} - gone
        named = {note: note.partition(":")[0].split(", ") for note in self.notes}
        return tuple(
            note for note in self.notes if gone.isdisjoint(named[note]) or not seen.isdisjoint(named[note])
        )


def _bare(head: str) -> str:
    """A column's head without its interval."""
    return head.partition(" [")[0]


def _width(columns: Sequence[TextColumn]) -> int:
    return sum(column.width for column in columns) + BETWEEN * (len(columns) - 1)


def make_console(wide: bool = False) -> Console:
    """A console that takes names as they are: "[v2]" is no markup. As wide as the terminal, or without bounds."""
    from rich.console import Console

    console = Console(highlight=False, markup=False, emoji=False)
    if wide or not sys.stdout.isatty():
        console.width = UNBOUNDED
    return console


def say(console: Console, line: Any) -> None:
    """A line of text, broken between words alone: a path stays whole."""
    if isinstance(line, str) and console.width < UNBOUNDED:
        indent = " " * (len(line) - len(line.lstrip()) + 2)
        parts = textwrap.wrap(
            line, console.width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
        )
        line = "\n".join(parts)
    console.print(line, overflow="ignore", crop=False)


def print_tables(console: Console, tables: Sequence[TextTable], more: str = "--wide prints them") -> None:
    """Prints tables one below another; what a narrow terminal leaves out is told once, at the end."""
    left: dict[str, None] = {}
    for table in tables:
        fitted, without = table.fitted(console.width)
        left |= dict.fromkeys(" ".join(head.split()) for head in without)
        for part in (fitted.title, drawn(fitted, console.width), *fitted.notes):
            if part:
                say(console, part)
        say(console, "")
    if left:
        say(console, f"no room here for: {', '.join(left)}; {more}")


def drawn(table: TextTable, width: int) -> Any:
    """The table as rich prints it: a rule under the heads, no frame; columns of words fold where they must."""
    import rich.box
    import rich.table

    room = width - BETWEEN * (len(table.columns) - 1)
    widths = _shared(table.columns, room)
    made = rich.table.Table(box=rich.box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for column, at_most in zip(table.columns, widths, strict=True):
        made.add_column(
            column.head,
            justify="right" if column.right else "left",
            no_wrap=column.right,
            overflow="fold",
            width=at_most,
        )
    for row in zip(*(column.cells for column in table.columns), strict=True):
        made.add_row(*row)
    return made


def _shared(columns: Sequence[TextColumn], room: int) -> list[int]:
    """The width of each column: its own, where the sum fits; else the widest ones of words give way."""
    widths = [column.width for column in columns]
    while sum(widths) > room:
        place = max(
            (place for place, column in enumerate(columns) if widths[place] > column.least),
            key=lambda place: widths[place],
            default=None,
        )
        if place is None:
            break
        widths[place] -= 1
    return widths
