"""`lmms-flow discover --search`: from a map that ran to a pathway, and how it answers questions that nobody has seen.

The first half of each task's questions calibrates, the second half is held out until the end.
"""

from __future__ import annotations

import contextlib
import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import ReportError
from ..flow.controls import BLIND, NONE
from ..trace.curves import FlowMap
from .areas import Areas, areas
from .discover import Discovery
from .kept import Kept, at_random
from .search_arms import Arms, run_of, score
from .searching import Ask, Found, Score, by_rule, search, suggested
from .statistics import accuracy

LEAST = 8  # calibration questions of a task
RULE_THRESHOLDS = (-1.0, -2.0, -5.0, -10.0, -20.0, -40.0)
SEEDS = (1, 2, 3)
WAY = 4  # pathways of the search that are asked the held-out questions


@dataclass(frozen=True)
class Held:
    """One arm on the held-out questions."""

    name: str
    kind: str  # search, rule, random, or control
    accuracy: float
    score: Score


@dataclass(frozen=True)
class Outcome:
    """What a search found, and how it and what it is compared with answer the held-out questions."""

    found: Found
    rule: Kept
    held: tuple[Held, ...]
    areas: Mapping[str, Areas]
    file: Path

    def of(self, kind: str) -> list[Held]:
        """The held-out arms of one kind, the sparsest first."""
        return sorted((each for each in self.held if each.kind == kind), key=lambda each: each.score.edges)


def search_from(
    discovery: Discovery, folders: Sequence[str | Path], folder: Path, margin: float, arms: int
) -> Outcome:
    """Searches on from a map that ran.

    Args:
        discovery: of the rule; its map's tasks are asked again.
        folders: in which the map's run lies, whose model and arguments are taken.
        folder: for what the search writes.
        margin: the largest difference of the accuracy that counts as none, as a share.
        arms: pathways of the first round.

    Raises:
        ReportError: there are too few questions, a run fails, or no pathway is equivalent.
    """
    whole = discovery.of
    questions = min(sum(one.task == task for one in whole.samples) for task in whole.subtasks)
    runner = Arms(run_of(folders, whole), whole, folder.resolve(), questions)
    if runner.calibration < LEAST:
        raise ReportError(
            f"a search splits the questions of each task in two, and the map has {questions} of each: run it on "
            f"{2 * LEAST} at the least"
        )
    with contextlib.closing(runner):
        return search_with(runner, discovery, margin, arms)


def search_with(runner: Arms, discovery: Discovery, margin: float, arms: int) -> Outcome:
    """The same with what answers the arms. Raises ReportError where no pathway is equivalent."""
    # What is held out has no say, in the map's curves neither.
    whole = discovery.of
    known = replace(whole, samples=tuple(one for one in whole.samples if one.doc_id < runner.calibration))
    rule = by_rule(known, discovery.rule.below, discovery.rule.width)
    asking: Ask = runner.ask
    found = search(suggested(known, rule, arms), asking, runner.calibration, margin, arms)
    if found is None:
        raise ReportError(
            f"no pathway answers the {runner.calibration} calibration questions of each task as full attention does, "
            f"within {margin:g}: a wider --margin or more questions may show one"
        )
    return _held_out(runner, known, rule, found)


def _held_out(runner: Arms, known: FlowMap, rule: Kept, found: Found) -> Outcome:
    """The search's ways, the rule's and random pathways of the same sizes, on the questions that nobody has seen."""
    way = _some_of(found.way)
    by_kind: dict[str, dict[str, Mapping[str, Any] | str]] = {
        "search": {str(each): runner.content_of(each) for each in way},
        "rule": {str(each): runner.content_of(each) for each in _rules(known, rule)},
        "random": {},
        "control": {BLIND.name: BLIND.name},
    }
    for each in way:
        for seed in SEEDS if each == found.best else SEEDS[:1]:
            name = f"random{seed}_{each}"
            by_kind["random"][name] = {"name": name, **at_random(each, seed)}
    flows = {name: flow for part in by_kind.values() for name, flow in part.items()}
    arms = runner.answer(flows, runner.calibration, runner.questions - runner.calibration)
    full = arms[NONE.name]
    held = [
        Held(name, kind, accuracy(arms[name]).value, score(arms[name], full))
        for kind, part in by_kind.items()
        for name in part
    ]
    blind = next(each.accuracy for each in held if each.kind == "control")
    scored = {
        kind: areas(
            [(each.score.edges, each.accuracy) for each in held if each.kind == kind],
            blind,
            accuracy(full).value,
        )
        for kind in ("search", "rule", "random")
    }
    outcome = Outcome(found, rule, tuple(held), scored, runner.folder / "frontier.csv")
    write_frontier(outcome)
    return outcome


def _some_of(way: Sequence[Kept], most: int = WAY) -> list[Kept]:
    """At most so many of them, from the first to the last."""
    places = {round(place * (len(way) - 1) / (most - 1)) for place in range(most)}
    return [way[place] for place in sorted(places)]


def _rules(known: FlowMap, rule: Kept) -> list[Kept]:
    """The rule's own pathways at several thresholds, none of which keeps nothing."""
    made = [rule, *(by_rule(known, below) for below in RULE_THRESHOLDS)]
    return [each for each in dict.fromkeys(made) if all(each.ranges)]


def write_frontier(outcome: Outcome) -> None:
    """Every held-out arm, a line each: what it keeps, and how it answers."""
    outcome.file.parent.mkdir(parents=True, exist_ok=True)
    with outcome.file.open("w", encoding="utf-8", newline="") as handle:
        lines = csv.writer(handle)
        lines.writerow(["kind", "name", "edges", "flops", "accuracy", "difference"])
        for each in outcome.held:
            score = each.score
            values = (score.edges, score.flops, each.accuracy, score.paired.difference)
            lines.writerow([each.kind, each.name, *(f"{value:.4f}" for value in values)])
