"""`lmms-flow discover --search`: the arms of a search, run by lmms-eval and read as every other run is.

What runs a model is an lmms-eval task: each pathway that is tried becomes a flow's file and an arm of each task of
the map. All arms of a round are one run, so that a question is read and encoded once and shares one baseline, and what
the journal knows of an earlier round is not asked again. The first half of each task's questions calibrates, the second
half is held out until the end.
"""

from __future__ import annotations

import csv
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from ..errors import ReportError
from ..flow.controls import BLIND, NONE
from ..trace.curves import FlowMap
from .arms import Arm
from .discover import Discovery
from .logs import Run, find_runs
from .runs import read_runs
from .searching import Areas, Ask, Found, Kept, Score, areas, by_rule, search, suggested
from .statistics import accuracy, paired

LEAST = 8  # calibration questions of a task
RULE_THRESHOLDS = (-1.0, -2.0, -5.0, -10.0, -20.0, -40.0)
SEEDS = (1, 2, 3)
EVAL = (sys.executable, "-m", "lmms_flow.cli", "eval")


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


@dataclass
class Arms:
    """Runs arms of a map's tasks, in a folder of its own.

    Args:
        run: whose model and arguments are taken.
        flow_map: whose tasks.
        folder: for tasks, flows and runs.
        questions: of each task.
    """

    run: Run
    flow_map: FlowMap
    folder: Path
    questions: int
    _runs: int = field(default=0, init=False)

    @property
    def calibration(self) -> int:
        """Questions of each task that calibrate; the rest is held out."""
        return self.questions // 2

    def ask(self, pathways: Sequence[Kept], questions: int) -> Mapping[Kept, Score]:
        """Calibration questions under pathways."""
        flows = {str(each): self._pathway(each) for each in pathways}
        arms = self.answer(flows, 0, min(questions, self.calibration))
        return {each: _score(arms[str(each)], arms[NONE.name]) for each in pathways}

    def answer(self, flows: Mapping[str, Mapping[str, Any] | str], first: int, count: int) -> dict[str, Arm]:
        """The arms of these flows (a file's content, or one line) on questions of each task, and full attention's.

        Raises ReportError where the run fails.
        """
        self._runs += 1
        texts = {name: self._flow(name, flow) for name, flow in flows.items()}
        tasks = [
            self._task(name, text, base) for name, text in texts.items() for base in self.flow_map.subtasks
        ]
        output = self.folder / "runs" / f"{self._runs:02d}"
        self._evaluate([*self.flow_map.subtasks, *tasks], first, count, output)
        within = range(first, first + count)
        read = {arm.flow: arm for arm in read_runs([output]).arms}
        found = {}
        for name, text in {NONE.name: NONE.name, **texts}.items():
            if text not in read:
                raise ReportError(f"{output}: the run has no answers under {text}")
            arm = read[text]
            found[name] = replace(arm, samples={k: s for k, s in arm.samples.items() if s.doc_id in within})
        return found

    def _pathway(self, kept: Kept) -> dict[str, Any]:
        return {"name": str(kept), "layers": kept.num_layers, "pathway": kept.pathway, "closed": True}

    def _flow(self, name: str, flow: Mapping[str, Any] | str) -> str:
        if isinstance(flow, str):
            return flow
        file = self.folder / "flows" / f"{name}.yaml"
        _write_yaml(file, flow)
        return str(file)

    def _task(self, name: str, text: str, base: str) -> str:
        task = f"search_{name.replace('-', 'to')}_{base}"
        content = {"task": task, "base": base, "flow": text}
        file = self.folder / "tasks" / f"{task}.yaml"
        _write_yaml(file, content)
        with file.open("a", encoding="utf-8") as handle:  # a tag that yaml does not write
            handle.write("class: !function lmms_flow.harness.flow_task.FlowTask\n")
        return task

    def _evaluate(self, tasks: Sequence[str], first: int, count: int, output: Path) -> None:
        given = {name: text for name, text in self.run.model_args.items() if not name.startswith("trace")}
        command = [
            *EVAL, "--model", self.run.model, "--model_args", ",".join(f"{k}={v}" for k, v in given.items()),
            "--include_path", str(self.folder / "tasks"), "--tasks", ",".join(tasks), "--limit", str(count),
            "--offset", str(first), "--log_samples", "--output_path", str(output), "--verbosity", "WARNING",
        ]  # fmt: skip
        log = self.folder / "runs" / f"{output.name}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("w", encoding="utf-8") as handle:
            status = subprocess.run(command, stdout=handle, stderr=subprocess.STDOUT, check=False).returncode
        if status:
            last = next((line for line in reversed(log.read_text("utf-8").splitlines()) if line.strip()), "")
            raise ReportError(
                f"the arms of a search could not be run (status {status}, {log}): {last.strip()}"
            )


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
    runner = Arms(_run_of(folders, whole), whole, folder.resolve(), questions)
    if runner.calibration < LEAST:
        raise ReportError(
            f"a search splits the questions of each task in two, and the map has {questions} of each: run it on "
            f"{2 * LEAST} at the least"
        )
    # What is held out has no say, in the map's curves neither.
    known = replace(whole, samples=tuple(one for one in whole.samples if one.doc_id < runner.calibration))
    rule = by_rule(known, discovery.rule.below, discovery.rule.width)
    asking: Ask = runner.ask
    found = search(suggested(known, rule, arms), asking, runner.calibration, margin)
    if found is None:
        raise ReportError(
            f"no pathway answers the {runner.calibration} calibration questions of each task as full attention does, "
            f"within {margin:g}: a wider --margin or more questions may show one"
        )
    return _held_out(runner, known, rule, found)


def _held_out(runner: Arms, known: FlowMap, rule: Kept, found: Found) -> Outcome:
    """The search's ways, the rule's and random cuts of the same sizes, on the questions that nobody has seen."""
    by_kind: dict[str, dict[str, Mapping[str, Any] | str]] = {
        "search": {str(each): runner._pathway(each) for each in found.way},
        "rule": {str(each): runner._pathway(each) for each in _rules(known, rule)},
        "random": {},
        "control": {BLIND.name: BLIND.name},
    }
    for each in found.way:
        share = round(1 - found.scores[each].edges, 4)
        for seed in SEEDS if each == found.best else SEEDS[:1]:
            by_kind["random"][f"random_{share:g}_seed{seed}".replace(".", "p")] = (
                f"random:{share:g}:seed{seed}"
            )
    flows = {name: flow for part in by_kind.values() for name, flow in part.items()}
    arms = runner.answer(flows, runner.calibration, runner.questions - runner.calibration)
    full = arms[NONE.name]
    held = [
        Held(name, kind, accuracy(arms[name]).value, _score(arms[name], full))
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


def _rules(known: FlowMap, rule: Kept) -> list[Kept]:
    """The rule's own pathways at several thresholds, none of which keeps nothing."""
    made = [rule, *(by_rule(known, below) for below in RULE_THRESHOLDS)]
    return [each for each in dict.fromkeys(made) if all(each.ranges)]


def _score(arm: Arm, full: Arm) -> Score:
    flops = arm.flops
    return Score(paired(arm, full), arm.share_kept, flops[1] if flops else float("nan"))


def _run_of(folders: Sequence[str | Path], flow_map: FlowMap) -> Run:
    """The latest run that asked the map's tasks. Raises ReportError where it is not known how it was started."""
    runs = [run for run in find_runs(folders) if run.model and run.model_args.get("pretrained")]
    for run in reversed(runs):
        if Path(run.model_args["pretrained"]).name == Path(flow_map.checkpoint).name:
            return run
    raise ReportError(
        f"no results file of a run of {flow_map.checkpoint} in {', '.join(map(str, folders))}: a search asks the model "
        "again, with that run's --model and --model_args"
    )


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


def _write_yaml(file: Path, content: Mapping[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(yaml.safe_dump(dict(content), sort_keys=False), encoding="utf-8")
