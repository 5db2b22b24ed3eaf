"""Writes tables: to the terminal, as Markdown, CSV and LaTeX. What a cell says is the table's own affair."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..terminal import MANY, UNBOUNDED, TextColumn, TextTable
from .cells import harmless
from .table import MODEL, Table

if TYPE_CHECKING:
    from rich.console import Console

WIDE = 7  # columns that a page has room for
LISTS = ("not-scored", "flips")  # tables with a row a question


def for_terminal(table: Table, console: Console) -> list[TextTable]:
    """The table as it is printed: more than one where it has too many columns, the first rows of a long list.

    Nothing is left out where the console is no terminal.
    """
    unbounded = console.width >= UNBOUNDED
    parts = table.split(max(WIDE, _needed(table))) if unbounded else _within(table, console.width)
    made = []
    for part in parts:
        rows = part.rows if unbounded or part.name not in LISTS else part.rows[:MANY]
        notes = part.notes
        if len(rows) < len(part.rows):
            notes += (f"and {len(part.rows) - len(rows)} more: --wide lists them all",)
        columns = tuple(_text_column(part, rows, place) for place in range(len(part.columns)))
        made.append(TextTable(part.title, columns, notes))
    return made


def _text_column(table: Table, rows: Sequence[Sequence[Any]], place: int) -> TextColumn:
    column, values = table.columns[place], [row[place] for row in rows]
    brief = column.brief or column.text
    return TextColumn(
        column.head,
        tuple("" if value is None else column.text(value) for value in values),
        column.right,
        column.rank,
        column.short,
        tuple("" if value is None else brief(value) for value in values),
    )


def _within(table: Table, width: int) -> Iterator[Table]:
    """Accuracies by sub-task in as many parts as it takes, several models in a table each.

    Every other table gives up columns instead.
    """
    if table.columns[0].head == MODEL and _width_of(table) > width:
        for model in dict.fromkeys(row[0] for row in table.rows):
            rows = tuple(row[1:] for row in table.rows if row[0] == model)
            alone = replace(table, columns=table.columns[1:], rows=rows, title=f"{table.title}: {model}")
            yield from _within(alone, width)
        return
    if table.name != "tasks":
        yield table
        return
    for at_most in range(len(table.columns), 1, -1):
        parts = list(table.split(at_most))
        if all(_width_of(part) <= width for part in parts):
            break
    yield from parts


def _width_of(table: Table) -> int:
    made = TextTable("", tuple(_text_column(table, table.rows, place) for place in range(len(table.columns))))
    return made.width


def _needed(table: Table) -> int:
    """A leaderboard's columns belong together; only accuracies by sub-task may be split."""
    return 0 if table.name == "tasks" else len(table.columns)


def markdown(tables: Iterable[Table]) -> str:
    """All tables in Markdown."""
    return "\n".join(_markdown(table) for table in tables)


def _markdown(table: Table) -> str:
    def line(cells: Iterable[str]) -> str:
        return f"| {' | '.join(cells)} |\n"

    text = f"### {_escaped_markdown(table.title)}\n\n"
    text += line(_escaped_markdown(column.head) for column in table.columns)
    text += line("---:" if column.right else "---" for column in table.columns)
    text += "".join(line(map(_escaped_markdown, row)) for row in table.texts())
    return text + "".join(f"\n{_escaped_markdown(note)}\n" for note in table.notes)


def _escaped_markdown(text: str) -> str:
    return re.sub(r"([\\`*_\[\]<>|#$~])", r"\\\1", " ".join(text.split()))


_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "Δ": r"$\Delta$",
    "±": r"$\pm$",
    "…": r"\ldots{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
}


def latex(tables: Iterable[Table]) -> str:
    r"""Floats with booktabs' rules; `\usepackage{booktabs}` is all that they need."""
    parts = (part for table in tables for part in table.split(max(WIDE, _needed(table))))
    return "% needs \\usepackage{booktabs}\n" + "\n".join(map(_latex, parts))


def _latex(table: Table) -> str:
    def line(cells: Iterable[str]) -> str:
        return " & ".join(_escaped_latex(cell) for cell in cells) + " \\\\"

    lines = [
        r"\begin{table}",
        r"  \centering\small",
        f"  \\caption{{{_escaped_latex('. '.join([table.title, *table.notes]))}.}}",
        f"  \\begin{{tabular}}{{{''.join('r' if column.right else 'l' for column in table.columns)}}}",
        r"    \toprule",
        "    " + line(column.head for column in table.columns),
        r"    \midrule",
        *("    " + line(row) for row in table.texts()),
        r"    \bottomrule",
        r"  \end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _escaped_latex(text: str) -> str:
    # "[" would be read as the length of the "\\" before it
    escaped = "".join(_LATEX.get(sign, sign) for sign in text)
    escaped = re.sub(r"(?<![\w-])-(?=[0-9])", "$-$", escaped)
    return f"{{}}{escaped}" if escaped.startswith("[") else escaped


def as_json(tables: Iterable[Table]) -> list[dict[str, Any]]:
    """The tables as plain values: what a CSV of them has, numbers as they are."""
    return [
        {
            "name": one.name,
            "benchmark": one.benchmark,
            "title": one.title,
            "rows": _raw(one),
            "notes": one.notes,
        }
        for one in tables
    ]


def write_csv(tables: Sequence[Table], file: Path) -> list[Path]:
    """One file a table: the first kind into `file`, the others beside it, as `file-tests.csv`. Returns the files.

    Numbers stand as they are, shares and not per cent; a text that a spreadsheet would take for a formula has an
    apostrophe in front. Boards of several benchmarks share a file.
    """
    written = []
    for name in dict.fromkeys(table.name for table in tables):
        target = file if name == tables[0].name else file.with_name(f"{file.stem}-{name}{file.suffix}")
        target.write_text(_csv([table for table in tables if table.name == name]), encoding="utf-8")
        written.append(target)
    return written


def _csv(tables: Sequence[Table]) -> str:
    rows = [row for table in tables for row in _raw(table)]
    heads = list(dict.fromkeys(head for row in rows for head in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, heads, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _raw(table: Table) -> list[dict[str, Any]]:
    rows = []
    for row in table.rows:
        cells: dict[str, Any] = {"benchmark": table.benchmark}
        for column, value in zip(table.columns, row, strict=True):
            values = value if isinstance(value, tuple) else (value,)
            values += (None,) * (len(column.raw) - len(values))
            cells.update(zip(column.raw, map(harmless, values), strict=False))
        rows.append(cells)
    return rows
