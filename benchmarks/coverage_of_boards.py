"""How often the leaderboard's 95 % intervals hold the truth, on made boards whose questions share videos.

    python -m benchmarks.coverage_of_boards [--json FILE] [--boards 2000]

The boards are those of `coverage_of_intervals`: 1 to 8 questions a video, which change as their video does with the
probability `shared`. A board has five arms against one baseline, and half of their changes are the same. For each row:
the bootstrap of one arm's difference, Wilson's interval of an accuracy, and how often the intervals of all five arms
hold at once, by max-T and where each is taken on its own. The last columns take the questions as independent.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import statsmodels
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from benchmarks.coverage_of_intervals import FLIPS, SIZES, design_effect
from lmms_flow.report.clusters import Clustered
from lmms_flow.report.pairing import Paired, paired_answers
from lmms_flow.report.simultaneous import Change, simultaneous
from lmms_flow.report.statistics import Accuracy, share

ROWS = (
    (60, 0.0),
    (60, 0.5),
    (60, 0.65),
    (150, 0.65),
)  # videos, and how often a question changes as its video does
ARMS = 5
EFFECT = -0.1
RIGHT = 0.6
RESAMPLES = 1000
Values = NDArray[np.float64]


def drawn(
    draws: np.random.Generator, groups: NDArray[np.int64], shared: float, chances: dict[float, float]
) -> Values:
    """A value of each question, which is its video's with the probability `shared`."""
    values, weights = list(chances), list(chances.values())
    of_video = draws.choice(values, int(groups.max()) + 1, p=weights)
    own = draws.choice(values, len(groups), p=weights)
    return np.where(draws.random(len(groups)) < shared, of_video[groups], own)


def changes(draws: np.random.Generator, groups: NDArray[np.int64], shared: float) -> list[Values]:
    """The changes of the arms, half of them the same in all."""
    chances = {-1.0: (FLIPS - EFFECT) / 2, 0.0: 1 - FLIPS, 1.0: (FLIPS + EFFECT) / 2}
    same = drawn(draws, groups, shared, chances)
    arms = (drawn(draws, groups, shared, chances) for _ in range(ARMS))
    return [np.where(draws.random(len(groups)) < 0.5, same, own) for own in arms]


def paired_of(values: Values, groups: NDArray[np.int64]) -> Paired:
    """The changes of an arm as answers before and after."""
    return paired_answers(
        (value <= 0, value >= 0, int(video)) for value, video in zip(values, groups, strict=True)
    )


def _holds(interval: tuple[float, float], truth: float) -> bool:
    return interval[0] <= truth <= interval[1]


def board(draws: np.random.Generator, videos: int, shared: float) -> dict[str, bool]:
    """Whether each interval of one board holds the truth."""
    groups = np.repeat(np.arange(videos), draws.choice(SIZES, videos))
    alone = np.arange(len(groups))
    arms = changes(draws, groups, shared)
    right = drawn(draws, groups, shared, {1.0: RIGHT, 0.0: 1 - RIGHT}) > 0
    family = [Change(Clustered(values, groups), tuple(map(str, range(videos)))) for values in arms]
    at_once = simultaneous(family, draws=RESAMPLES)
    seed = int(draws.integers(2**31))
    return {
        "difference": _holds(paired_of(arms[0], groups).interval(seed, RESAMPLES), EFFECT),
        "accuracy": _holds(share(right.tolist(), groups.tolist()).interval, RIGHT),
        "max_t": all(_holds(one.interval, EFFECT) for one in at_once),
        "each_alone": all(_holds(one.values.interval, EFFECT) for one in family),
        "difference_independent": _holds(paired_of(arms[0], alone).interval(seed, RESAMPLES), EFFECT),
        "accuracy_independent": _holds(Accuracy(int(right.sum()), len(right)).interval, RIGHT),
    }


def row(videos: int, shared: float, boards: int, seed: int = 0) -> dict[str, float]:
    """One row of the table; it does not depend on the others."""
    draws = np.random.default_rng([seed, videos, round(100 * shared)])
    made = [board(draws, videos, shared) for _ in tqdm(range(boards), unit="board", leave=False)]
    shares = {name: sum(one[name] for one in made) / boards for name in made[0]}
    return {"videos": videos, "design_effect": round(design_effect(shared), 2), **shares}


def main() -> None:
    """Prints the table and writes it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--json", type=Path, default=Path(__file__).parent / "results" / "coverage_boards.json"
    )
    parser.add_argument("--boards", type=int, default=2000)
    args = parser.parse_args()
    found = [row(videos, shared, args.boards) for videos, shared in ROWS]
    table = Table(*(name.replace("_", " ") for name in found[0]))
    for each in found:
        shares = [
            f"{100 * value:.1f} %" for name, value in each.items() if name not in ("videos", "design_effect")
        ]
        table.add_row(str(each["videos"]), str(each["design_effect"]), *shares)
    Console().print(table)
    written = {"boards": args.boards, "arms": ARMS, "statsmodels": statsmodels.__version__, "rows": found}
    args.json.write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
