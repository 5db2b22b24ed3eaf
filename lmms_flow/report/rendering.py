"""Writes tables: to the terminal, as Markdown, CSV and LaTeX. What a cell says is the table's own affair."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import rich.console
import rich.measure
import rich.table

from .cells import harmless
from .table import Table

WIDE = 7  # columns that a terminal of usual width, or a page, has room for


def for_terminal(table: Table) -> list[rich.table.Table]:
    """Tables of rich, more than one where it has too many columns for a terminal."""
    made = []
    for part in table.split(max(WIDE, _needed(table))):
        drawn = rich.table.Table(title=part.title, title_justify="left", caption_justify="left")
        drawn.caption = "\n".join(part.notes) or None
        for column in part.columns:
            drawn.add_column(column.head, justify="right" if column.right else "left", no_wrap=True)
        for row in part.texts():
            drawn.add_row(*row)
        made.append(drawn)
    return made


def width_of(table: rich.table.Table, console: rich.console.Console) -> int:
    """The columns of text that a table needs so that nothing in it is cut short."""
    return rich.measure.Measurement.get(console, console.options.update(max_width=10_000), table).maximum


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
