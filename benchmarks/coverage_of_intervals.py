"""How often the 95 % interval of a change holds the true one, on made boards whose questions share clips.

    python -m benchmarks.coverage_of_intervals [--json FILE] [--boards 2000]

A board has 1 to 8 questions a clip. With the probability `shared` a question changes as its clip does, otherwise on its
own; so the design effect grows, which is the variance of the mean over that of independent questions. The true change
is known. Each row is 2,000 boards, and their intervals with clusters and with the same answers taken as independent.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import statsmodels
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from lmms_flow.report.clusters import Clustered

CLIPS = (60, 150, 400)
SHARED = (0.0, 0.35, 0.5, 0.65)
EFFECTS = (0.0, -0.1)
MOST = 8  # questions of a clip
FLIPS = 0.4  # of the questions change, one way or the other
SIZES = np.arange(1, MOST + 1)


def design_effect(shared: float) -> float:
    """By Kish's formula for clusters of unequal size; two questions of a clip correlate by the square of `shared`."""
    return float(1 + ((SIZES**2).sum() / SIZES.sum() - 1) * shared**2)


def board(draws: np.random.Generator, clips: int, effect: float, shared: float) -> tuple[Clustered, float]:
    """The changes of a board's questions, -1, 0 or 1 each, and the true mean of such changes."""
    sizes = draws.choice(SIZES, clips)
    groups = np.repeat(np.arange(clips), sizes)
    chances = [(FLIPS - effect) / 2, 1 - FLIPS, (FLIPS + effect) / 2]
    of_clip = draws.choice([-1.0, 0.0, 1.0], clips, p=chances)
    own = draws.choice([-1.0, 0.0, 1.0], len(groups), p=chances)
    values = np.where(draws.random(len(groups)) < shared, of_clip[groups], own)
    return Clustered(values, groups), effect


def covered(made: tuple[Clustered, float], *, clustered: bool) -> bool:
    """Whether the interval holds the true change; without clusters every question stands for itself."""
    found, true = made
    if not clustered:
        found = Clustered(found.values, np.arange(len(found.values)))
    low, high = found.interval
    return low <= true <= high


def rows(boards: int, seed: int = 0) -> Iterator[dict[str, float]]:
    """One row for each number of clips, strength of the clips and effect."""
    draws = np.random.default_rng(seed)
    settings = [(clips, shared, effect) for clips in CLIPS for shared in SHARED for effect in EFFECTS]
    for clips, shared, effect in tqdm(settings, unit="row"):
        made = [board(draws, clips, effect, shared) for _ in range(boards)]
        yield {
            "clips": clips,
            "design_effect": round(design_effect(shared), 2),
            "change": effect,
            "clustered": sum(covered(one, clustered=True) for one in made) / boards,
            "independent": sum(covered(one, clustered=False) for one in made) / boards,
        }


def main() -> None:
    """Prints the table and writes it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, default=Path(__file__).parent / "results" / "coverage.json")
    parser.add_argument("--boards", type=int, default=2000)
    args = parser.parse_args()
    found = list(rows(args.boards))
    table = Table("clips", "design effect", "true change", "clustered", "taken as independent")
    for row in found:
        table.add_row(
            str(row["clips"]),
            str(row["design_effect"]),
            f"{100 * row['change']:g}",
            f"{100 * row['clustered']:.1f} %",
            f"{100 * row['independent']:.1f} %",
        )
    Console().print(table)
    written = {"boards": args.boards, "statsmodels": statsmodels.__version__, "rows": found}
    args.json.write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
