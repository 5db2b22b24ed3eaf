"""The arms of a search, run by lmms-eval and read as every other run is.

What runs a model is an lmms-eval task: each pathway that is tried becomes a flow's file and an arm of each task of
the map. All arms of a round are one run, so that a question is read and encoded once and shares one baseline, and what
the journal knows of an earlier round is not asked again.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from ..errors import ReportError
from ..flow.controls import NONE
from ..trace.curves import FlowMap
from .arms import Arm
from .kept import Kept
from .logs import Run, find_runs
from .pairing import paired
from .runs import read_runs
from .searching import Score

# A process of its own: it needs what this room may not import.
EVAL = (sys.executable, "-m", "lmms_flow.harness.eval_worker")


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
    _worker: subprocess.Popen[str] | None = field(default=None, init=False)

    @property
    def calibration(self) -> int:
        """Questions of each task that calibrate; the rest is held out."""
        return self.questions // 2

    def ask(self, pathways: Sequence[Kept], questions: int) -> Mapping[Kept, Score]:
        """Calibration questions under pathways."""
        flows = {str(each): self.content_of(each) for each in pathways}
        arms = self.answer(flows, 0, min(questions, self.calibration))
        return {each: score(arms[str(each)], arms[NONE.name]) for each in pathways}

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

    def content_of(self, kept: Kept) -> dict[str, Any]:
        """What a pathway's file says."""
        return {"name": str(kept), **kept.content}

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
        arguments = [
            "--allow-errors", "--model", self.run.model,
            "--model_args", ",".join(f"{k}={v}" for k, v in given.items()),
            "--include_path", str(self.folder / "tasks"), "--tasks", ",".join(tasks), "--limit", str(count),
            "--offset", str(first), "--log_samples", "--output_path", str(output), "--verbosity", "WARNING",
        ]  # fmt: skip
        log = self.folder / "runs" / f"{output.name}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        log.touch()
        if status := self._status_of({"arguments": arguments, "log": str(log)}):
            last = next((line for line in reversed(log.read_text("utf-8").splitlines()) if line.strip()), "")
            raise ReportError(
                f"the arms of a search could not be run (status {status}, {log}): {last.strip()}"
            )

    def _status_of(self, asked: Mapping[str, Any]) -> int:
        """The exit status of a run, or of the process in which it was to run."""
        if self._worker is None:
            self._worker = subprocess.Popen(EVAL, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        worker = self._worker
        assert worker.stdin is not None and worker.stdout is not None  # noqa: PT018  (both are pipes)
        try:
            print(json.dumps(asked), file=worker.stdin, flush=True)
            answer = worker.stdout.readline()
        except BrokenPipeError:
            answer = ""
        return int(answer) if answer else worker.wait() or 1

    def close(self) -> None:
        """Ends the process in which the runs were."""
        if self._worker is not None:
            self._worker.communicate()
            self._worker = None


def score(arm: Arm, full: Arm) -> Score:
    """An arm beside full attention. What it could not be asked, such as where a token would read nothing, is lost."""
    failed = {(one.task, one.doc_id): replace(one, correct=False) for one in full.answered()}
    answered = {(one.task, one.doc_id): one for one in arm.answered()}
    beside = paired(replace(arm, samples=failed | answered), full)
    flops = arm.flops
    return Score(beside, arm.share_kept, flops[1] if flops else math.nan, _change(arm, full))


def _change(arm: Arm, full: Arm) -> float:
    """The mean relative change of the probability of full attention's answer, per cent; nan where none is written."""
    changes = []
    for place, sample in arm.samples.items():
        beside = full.samples.get(place)
        before = beside.options.get(beside.answer) if beside else None
        if beside and before and sample.options:
            changes.append(sample.options[beside.answer] / before - 1)
    return 100 * sum(changes) / len(changes) if changes else math.nan


def run_of(folders: Sequence[str | Path], flow_map: FlowMap) -> Run:
    """The latest run that asked the map's tasks. Raises ReportError where it is not known how it was started."""
    runs = [run for run in find_runs(folders) if run.model and run.model_args.get("pretrained")]
    for run in reversed(runs):
        if Path(run.model_args["pretrained"]).name == Path(flow_map.checkpoint).name:
            return run
    raise ReportError(
        f"no results file of a run of {flow_map.checkpoint} in {', '.join(map(str, folders))}: a search asks the model "
        "again, with that run's --model and --model_args"
    )


def _write_yaml(file: Path, content: Mapping[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(yaml.safe_dump(dict(content), sort_keys=False), encoding="utf-8")
