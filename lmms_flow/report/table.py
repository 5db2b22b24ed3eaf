"""A table of values, and how each column is printed: one form for people, one for programs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

MODEL = "model"  # the head of the column that tells several models apart


@dataclass(frozen=True)
class Column:
    """`text` prints a value for people. `raw` names the columns of a CSV that it becomes: none, one, or several.

    A value that becomes several is a tuple. None is an empty cell in either form. Where a terminal has little room the
    column of the highest `rank` leaves first (0 stays), and `short` and `brief` are its head and its text.
    """

    head: str
    text: Callable[[Any], str] = str
    raw: tuple[str, ...] = ()
    right: bool = True  # aligned
    rank: int = 0
    short: str = ""
    brief: Callable[[Any], str] | None = None


@dataclass(frozen=True)
class Table:
    """`name` tells the tables of a comparison apart, `rows` hold values, `notes` stand below."""

    name: str
    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Any, ...], ...]
    notes: tuple[str, ...] = ()
    benchmark: str = ""

    def texts(self) -> Iterator[list[str]]:
        """The rows as they are printed."""
        for row in self.rows:
            yield [
                "" if value is None else column.text(value)
                for column, value in zip(self.columns, row, strict=True)
            ]

    def split(self, at_most: int) -> Iterator[Table]:
        """Tables of `at_most` columns, each beginning with the first column, for media of limited width."""
        if len(self.columns) <= at_most:
            yield self
            return
        step = at_most - 1
        for start in range(1, len(self.columns), step):
            places = [0, *range(start, min(start + step, len(self.columns)))]
            last = places[-1] == len(self.columns) - 1
            yield replace(
                self,
                title=self.title if start == 1 else f"{self.title}, continued",
                columns=tuple(self.columns[place] for place in places),
                rows=tuple(tuple(row[place] for place in places) for row in self.rows),
                notes=self.notes if last else (),
            )


def percent(value: float, digits: int = 1) -> str:
    """A share as per cent; empty where it is not a number."""
    return "" if math.isnan(value) else f"{100 * value:.{digits}f}"


def change(value: float) -> str:
    """A difference of shares in points, always with its sign."""
    return "" if math.isnan(value) else f"{100 * value:+.1f}"


def with_interval(value: Sequence[float]) -> str:
    """A share and its interval: `68.0 [64.2, 71.7]`."""
    middle, low, high = value
    return "" if math.isnan(middle) else f"{percent(middle)} [{percent(low)}, {percent(high)}]"


def change_with_interval(value: Sequence[float]) -> str:
    """A difference and its interval: `-1.2 [-2.0, -0.4]`."""
    middle, low, high = value
    return "" if math.isnan(middle) else f"{change(middle)} [{change(low)}, {change(high)}]"


def p_value(value: float) -> str:
    """A p-value with three places, or in powers of ten where it is smaller."""
    if math.isnan(value):
        return ""
    return f"{value:.1e}" if value < 0.001 else f"{value:.3f}"


def flops(value: Sequence[float]) -> str:
    """FLOPs and their share of full attention's: `10.6 T (63.2 %)`."""
    spent, share = value
    for size, unit in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if spent >= size:
            return f"{spent / size:.3g} {unit} ({percent(share)} %)"
    return f"{spent:.3g} ({percent(share)} %)"


def one_line(text: str, at_most: int = 60) -> str:
    """An answer or a reason in one line, shortened, without signs that a terminal would obey."""
    line = " ".join("".join(sign if sign.isprintable() else " " for sign in text).split())
    return line if len(line) <= at_most else f"{line[: at_most - 1]}…"
