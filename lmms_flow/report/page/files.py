"""What is written beside the page: its tables and curves as CSV, all answers in one, its figures as PNG and SVG."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib import rc_context

from ...plots import SETTINGS
from ..board import Board
from ..cells import harmless
from ..rendering import write_csv
from ..samples import frame_of
from ..table import Table
from .map_section import Drawn
from .parts import Section

if TYPE_CHECKING:
    import pandas as pd

CURVE = (
    "benchmark",
    "checkpoint",
    "protocol",
    "frames",
    "style",
    "window",
    "how",
    "among",
    "knockout",
    "layer",
    "mean",
    "low",
    "high",
    "questions",
    "clips",
)


def write_tables(
    boards: Sequence[tuple[Board, Sequence[Table]]],
    sections: Sequence[Section],
    drawn: Sequence[Drawn],
    folder: Path,
) -> list[Path]:
    """Every table and curve as CSV, and all answers in one; returns the files.

    Args:
        boards: with all their tables.
        sections: whose other tables are written too.
        drawn: whose curves are written.
        folder: for the files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tables = [table for _, of_board in boards for table in of_board]
    tables += [
        block.table for section in sections for block in section.blocks if block.table and not block.fold
    ]
    alone = list({id(table): table for table in tables}.values())
    written = []
    for name in dict.fromkeys(table.name for table in alone):
        written += write_csv([table for table in alone if table.name == name], folder / f"{name}.csv")
    samples = folder / "samples.csv"
    for_spreadsheets(frame_of([board for board, _ in boards])).to_csv(samples, index=False)
    return [*written, samples, *_write_curves(drawn, folder / "curves.csv")]


def for_spreadsheets(frame: pd.DataFrame) -> pd.DataFrame:
    """The same table, in which no text of a question or an answer is a formula."""
    texts = frame.select_dtypes(include=["object", "string"]).columns
    return frame.assign(**{name: frame[name].map(harmless) for name in texts}).rename(columns=harmless)


def _write_curves(drawn: Sequence[Drawn], file: Path) -> list[Path]:
    if not drawn:
        return []
    with file.open("w", encoding="utf-8", newline="") as handle:
        writer = csv.writer(handle, lineterminator="\n")
        writer.writerow(CURVE)
        for one in drawn:
            writer.writerows([harmless(cell) for cell in row] for row in _curve_rows(one))
    return [file]


def _curve_rows(one: Drawn) -> Iterator[tuple[object, ...]]:
    asked = one.map
    whose = (asked.benchmark, asked.checkpoint, asked.protocol, asked.frames)
    about = (*whose, asked.style, asked.window, asked.how, one.among)
    for curve in one.curves.values():
        for layer, mean, low, high in zip(curve.layers, curve.mean, curve.low, curve.high, strict=True):
            yield (*about, curve.knockout, layer, mean, low, high, curve.questions, curve.clips)


def write_figures(sections: Sequence[Section], folder: Path) -> list[Path]:
    """Each figure as PNG and as SVG, on white paper; returns the files."""
    written = []
    for picture in (
        picture for section in sections for block in section.blocks for picture in block.pictures
    ):
        for ending in (".png", ".svg"):
            file = folder / f"{picture.name}{ending}"
            metadata = {"Date": None} if ending == ".svg" else {}
            with rc_context(SETTINGS):
                picture.figure.savefig(file, dpi=200, facecolor="white", metadata=metadata)
            written.append(file)
    return written
