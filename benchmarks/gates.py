"""How well gate gradients foresee a sweep, and what they take, on the bundled model: python benchmarks/gates.py.

For each question the exact change of the answer's log-probability by the sweep, for every knockout and window, beside
what gate gradients foresee of it: Spearman's correlation over the cuts, and how many of the tenth of the cuts that
change most are found among the tenth that is foreseen to. Means over the questions, and both of the mean map; and of
the mean map of relative changes of the probability, which is what a page draws (a log-probability has no lower bound,
so that one question's deep fall can rule a mean).
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr

import lmms_flow
from lmms_flow.assets import flow_tiny_dir
from lmms_flow.engine import sweep
from lmms_flow.trace.gates import gate_gradients

FAMILIES = ("action_antonym", "moving_direction", "action_sequence", "scene_transition", "object_count")
KNOCKOUTS = ("cross_frame", "video:question", "video:last", "question:last", "last:last")
WINDOW = 3  # the paper's 9 of 32 layers, in a model of 12
TOP = 0.1


def prompts(loaded: Any, count: int) -> Iterator[Any]:
    """Questions of the bundled benchmark, from its families in turn."""
    folder = flow_tiny_dir().parent / "flowbench"
    rows = [[json.loads(line) for line in (folder / f"{name}.jsonl").open()] for name in FAMILIES]
    for number in range(count):
        row = rows[number % len(rows)][number // len(rows) * 7]
        place = row["candidates"].index(row["answer"])
        yield loaded.prompt(str(folder / row["video"]), row["question"], row["candidates"], answer=place)


def agreement(exact: np.ndarray, foreseen: np.ndarray) -> tuple[float, float]:
    """Spearman's correlation of two maps, and the share of the largest tenth that is in the other's."""
    count = max(1, round(TOP * exact.size))
    tops = [set(np.argsort(-np.abs(each.ravel()))[:count]) for each in (exact, foreseen)]
    return float(spearmanr(exact.ravel(), foreseen.ravel()).statistic), len(tops[0] & tops[1]) / count


def timed(call: Callable[[], Any], taken: list[float]) -> Any:
    """What a call gives; its processor seconds are appended."""
    start = time.process_time()
    found = call()
    taken.append(time.process_time() - start)
    return found


def measure(questions: int, steps: Sequence[int], window: int) -> dict[str, Any]:
    """The agreement and the seconds of each way, over so many questions."""
    torch.set_num_threads(1)
    loaded = lmms_flow.load("flow-tiny", device="cpu", dtype="float32")
    ways = {"first order": 1} | {f"{number} steps": number for number in steps}
    maps: dict[str, list[np.ndarray]] = {name: [] for name in ("sweep", *ways)}
    relative: dict[str, list[np.ndarray]] = {name: [] for name in maps}
    seconds: dict[str, list[float]] = {name: [] for name in maps}
    for prompt in prompts(loaded, questions):
        asked = (loaded.model, prompt.inputs, prompt.layout, KNOCKOUTS)
        swept = timed(partial(sweep, *asked, window=window), seconds["sweep"])
        maps["sweep"].append((swept.probabilities.double().log() - np.log(swept.baseline)).numpy())
        relative["sweep"].append(swept.relative_change.double().numpy())
        for name, number in ways.items():
            found = timed(
                partial(gate_gradients, *asked, window=window, steps=number),
                seconds[name],
            )
            maps[name].append(found.effects.numpy())
            relative[name].append(found.relative_change.numpy())
        print(f"{len(maps['sweep'])} of {questions}", flush=True)
    result: dict[str, Any] = {"questions": questions, "window": window, "cuts": maps["sweep"][0].size}
    for name, values in maps.items():
        each = [agreement(exact, own) for exact, own in zip(maps["sweep"], values, strict=True)]
        spearman, recall = np.mean(each, axis=0)
        of_mean = agreement(np.mean(maps["sweep"], axis=0), np.mean(values, axis=0))
        of_drawn = agreement(np.mean(relative["sweep"], axis=0), np.mean(relative[name], axis=0))
        result[name] = {
            "spearman": round(float(spearman), 3),
            "top tenth": round(float(recall), 3),
            "spearman of the mean map": round(of_mean[0], 3),
            "top tenth of the mean map": round(of_mean[1], 3),
            "spearman of the mean relative change": round(of_drawn[0], 3),
            "top tenth of the mean relative change": round(of_drawn[1], 3),
            "processor seconds a question": round(float(np.mean(seconds[name])), 2),
        }
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--questions", type=int, default=20)
    parser.add_argument("--steps", type=int, nargs="+", default=[5, 8])
    parser.add_argument("--window", type=int, default=WINDOW)
    parser.add_argument("--out", type=Path, help="JSON file")
    args = parser.parse_args()
    text = json.dumps(measure(args.questions, args.steps, args.window), indent=1)
    print(text)
    if args.out:
        args.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
