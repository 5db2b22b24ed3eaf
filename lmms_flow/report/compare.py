"""From lmms-eval's folders to tables and files: what `lmms-flow compare` does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ReportError
from ..notebook import axes_of, table
from .board import Board, Settings, make_boards
from .board_tables import all_tables
from .page.options import Options
from .rendering import latex, markdown, write_csv
from .runs import read_runs
from .table import Table

Folders = Sequence[str | Path]


ROWS = 60  # of a table that a notebook shows


@dataclass(frozen=True, repr=False)
class Comparison:
    """The boards of a comparison, one a benchmark, the tables to print, and the files that were written."""

    boards: tuple[Board, ...]
    tables: tuple[Table, ...]
    files: tuple[Path, ...]

    def __repr__(self) -> str:
        boards = ", ".join(f"{board.benchmark} ({len(board.entries)} arms)" for board in self.boards)
        return f"Comparison({boards}; {len(self.tables)} tables)"

    def _repr_html_(self) -> str:
        """The tables, of a long one its first rows."""
        made = []
        for one in self.tables:
            rows = [row for _, row in zip(range(ROWS), one.texts(), strict=False)]
            left = len(one.rows) - len(rows)
            notes = (*one.notes, *([f"and {left} more rows"] if left else []))
            made.append(table([column.head for column in one.columns], rows, one.title, notes))
        return "".join(made)

    def plot(self, ax: Any = None) -> Any:
        """Draws each arm's accuracy with its interval; returns the axes. Of several benchmarks, the first.

        The figure that `--figure` writes has the sub-tasks as well.
        """
        from .figures import draw_accuracies

        entries = self.boards[0].entries
        return draw_accuracies(self.boards[0], axes_of(ax, height=0.9 + 0.3 * len(entries)))

    @property
    def failures(self) -> int:
        """Samples that ended in an error or whose record can't be read."""
        arms = [entry.arm for board in self.boards for entry in board.entries]
        return sum(arm.count("error") + arm.count("unreadable") for arm in arms)


def compare(
    folders: Folders,
    *,
    records: Folders = (),
    margin: float = 0.02,
    seed: int = 0,
    allow_differences: bool = False,
    outputs: Sequence[Path] = (),
    figure: Path | None = None,
    by_task: bool = False,
    flips: bool = False,
) -> Comparison:
    """Reads, tests and writes; `lmms-flow compare --help` has the arguments.

    Raises ReportError for what can't be compared or written.
    """
    settings = Settings(margin, seed)
    for file in outputs:
        _check_ending("--output", file, (*PAGES, *TABLES))
    if figure is not None:
        _check_ending("--figure", figure, FIGURES)
    reading = read_runs(folders, records)
    boards = make_boards(reading.arms, settings, allow_differences=allow_differences, notes=reading.notes)
    made = [(board, all_tables(board)) for board in boards]
    tables = [table for _, of_board in made for table in of_board]
    left_out = {"tests-by-task": not by_task, "flips": not flips}
    printed = [table for table in tables if not left_out.get(table.name)]
    files: list[Path] = []
    for file in outputs:
        if file.suffix.lower() == PAGE:
            files += _page(folders, file, Options(records, margin, seed, allow_differences, alone=True))
        else:
            files += _write(file, made, printed)
    if figure is not None:
        files += _draw(boards, figure)
    return Comparison(tuple(boards), tuple(printed), tuple(files))


PAGE = ".html"
PAGES = (PAGE, ".csv")  # hold every table
TABLES = {".md": markdown, ".tex": latex}  # hold those that are printed
FIGURES = (".png", ".svg", ".pdf")


def _check_ending(option: str, file: Path, endings: Sequence[str]) -> None:
    if file.suffix.lower() not in endings:
        raise ReportError(f"{option} {file}: write a name that ends in {' or '.join(endings)}")


def _write(file: Path, made: Sequence[tuple[Board, Sequence[Table]]], printed: Sequence[Table]) -> list[Path]:
    ending = file.suffix.lower()
    file.parent.mkdir(parents=True, exist_ok=True)
    if ending == ".csv":
        return write_csv([table for _, tables in made for table in tables], file)
    file.write_text(TABLES[ending](printed), encoding="utf-8")
    return [file]


def _page(folders: Folders, file: Path, options: Options) -> Sequence[Path]:
    """The page of `lmms-flow report`, and nothing beside it."""
    from .page.building import report

    return report(folders, file, options).files


def _draw(boards: Sequence[Board], file: Path) -> list[Path]:
    """The accuracies; of several benchmarks a figure each, as `file-tvbench.png`."""
    from .figures import accuracy_figure, save

    scored = [board for board in boards if any(entry.accuracy.total for entry in board.entries)]
    if len(scored) == 1:
        return [save(accuracy_figure(scored[0]), file)]
    return [
        save(accuracy_figure(board), file.with_name(f"{file.stem}-{board.benchmark}{file.suffix}"))
        for board in scored
    ]
