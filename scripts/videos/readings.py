"""`python -m scripts.videos.readings`: makes the files, reads each in several ways, writes docs/videos.md's table."""

from __future__ import annotations

import argparse
import re
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lmms_flow.errors import SampleError
from lmms_flow.inputs.video import read_frames
from scripts.videos.coded import as_played, number
from scripts.videos.kinds import KINDS, REFUSED, Kind
from scripts.videos.pages import put

SCRIPT = "scripts/videos/readings.py"
Upright = Callable[[np.ndarray], np.ndarray]
WAYS = (("midpoints", 8), ("linspace", 8), ("midpoints", 1), ("linspace", 24))


@dataclass(frozen=True)
class Outcome:
    """What became of a file: whether that is right, and in words."""

    is_right: bool
    text: str
    reader: str = ""


def judge(path: Path, reader: str = "auto", upright: Upright = np.asarray) -> Outcome:
    """Right is the frame that a player shows at the index, for every frame, or an error that says what is wrong."""
    try:
        played = list(as_played(path))
    except Exception:  # it can't be played
        played = []
    readers = set()
    for sampling, count in WAYS:
        try:
            frames = read_frames(path, count, sampling=sampling, reader=reader)
        except SampleError as error:
            return Outcome(True, error.reason)
        readers.add(frames.reader.split()[0])
        seen = [number(upright(picture)) for picture in frames.pixels]
        wanted = [played[index] if index < len(played) else None for index in frames.indices]
        if seen != wanted:
            return Outcome(
                False, f"wrong frames by {sampling}: {seen} at {list(frames.indices)}", frames.reader
            )
    return Outcome(True, "read", ", ".join(sorted(readers)))


def as_meant(kind: Kind, outcome: Outcome) -> bool:
    if kind.end == REFUSED:
        return outcome.text != "read" and bool(re.search(kind.words, outcome.text))
    return outcome.is_right and outcome.text == "read"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keep", type=Path, help="a folder for the files; else they are deleted")
    parser.add_argument("--no-docs", action="store_true", help="print the table alone")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        rows, wrong = _rows(args.keep or Path(temporary))
    table = "\n".join(["| kind | file | what comes of it | reader |", "|---|---|---|---|", *rows])
    print(table)
    if not args.no_docs:
        put(table, SCRIPT)
    if wrong:
        raise SystemExit(f"not as meant: {', '.join(wrong)}")


def _rows(folder: Path) -> tuple[list[str], list[str]]:
    folder.mkdir(parents=True, exist_ok=True)
    rows, wrong = [], []
    for kind in KINDS:
        if not kind.can_be_made:
            rows.append(f"| {kind.group} | {kind.name} | not made: ffmpeg is not installed | |")
            continue
        path = kind.write(folder)
        outcome = judge(path, upright=kind.upright)
        if not as_meant(kind, outcome):
            wrong.append(kind.name)
        rows.append(f"| {kind.group} | {kind.name} | {outcome.text} | {outcome.reader} |")
    return rows, wrong


if __name__ == "__main__":
    main()
