"""How a search asks lmms-eval: one process for all of its runs, their command lines, what is said of a failed one."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from lmms_flow.errors import ReportError
from lmms_flow.report import search_arms
from lmms_flow.report.arms import Arm, ScoredSample
from lmms_flow.report.search_arms import Arms, score
from lmms_flow.trace.curves import FlowMap

TASKS = ("flowbench_action_antonym", "flowbench_object_count")
# Writes what it was asked into the log, and answers 0; 1 where a task's name says fail; dies where it says die.
WORKER = """
import json, os, sys
for line in sys.stdin:
    asked = json.loads(line)
    tasks = asked["arguments"][asked["arguments"].index("--tasks") + 1]
    with open(asked["log"], "w") as log:
        print(os.getpid(), json.dumps(asked["arguments"]), file=log)
        print("it broke in the middle", file=log)
    if "die" in tasks:
        os._exit(3)
    print(int("fail" in tasks), flush=True)
"""


class Run:
    """The run of a map."""

    model = "llava_vid_flow"
    model_args: Mapping[str, str] = {"pretrained": "flow-tiny", "records": "out/records", "trace_window": "3"}


@pytest.fixture
def arms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Arms:
    monkeypatch.setattr(search_arms, "EVAL", (sys.executable, "-c", WORKER))
    run: Any = Run()
    samples: Any = tuple(type("Sample", (), {"task": task})() for task in TASKS)
    return Arms(
        run, FlowMap("flow-tiny", "flowbench", "paper", 8, (), (), 3, "center", 12, samples), tmp_path, 20
    )


def asked(arms: Arms, number: int) -> tuple[str, list[str]]:
    """The process of a run, and its arguments."""
    pid, _, text = (arms.folder / "runs" / f"{number:02d}.log").read_text().splitlines()[0].partition(" ")
    return pid, json.loads(text)


def test_all_runs_of_a_search_share_a_process(arms: Arms) -> None:
    arms._evaluate(["a", "b"], 0, 5, arms.folder / "runs" / "01")
    arms._evaluate(["c"], 10, 10, arms.folder / "runs" / "02")
    arms.close()
    (first, arguments), (second, later) = asked(arms, 1), asked(arms, 2)
    assert first == second
    told = dict(pairwise(arguments))
    assert told["--model"] == "llava_vid_flow"
    assert told["--model_args"] == "pretrained=flow-tiny,records=out/records", "without the trace's own"
    assert (told["--tasks"], told["--offset"], told["--limit"]) == ("a,b", "0", "5")
    assert later[later.index("--offset") + 1] == "10"
    assert "--log_samples" in arguments


@pytest.mark.parametrize("task", ["fail", "die"])
def test_a_failed_run_is_told_with_the_last_line_of_its_log(arms: Arms, task: str) -> None:
    with pytest.raises(
        ReportError, match=r"could not be run \(status [13], .*01.log\): it broke in the middle"
    ):
        arms._evaluate([task], 0, 5, arms.folder / "runs" / "01")
    arms.close()


def arm(right: dict[int, bool | None], options: dict[str, float] | None = None) -> Arm:
    samples = {
        (TASKS[0], doc): ScoredSample(
            TASKS[0], doc, correct, "ok" if correct is not None else "error", answer="A", options=options or {},
            edges_kept=1, edges_total=4,
        )
        for doc, correct in right.items()
    }  # fmt: skip
    return Arm("flow-tiny", "x", "", "sparse", 8, samples=samples)


def test_what_an_arm_could_not_be_asked_is_lost() -> None:
    full = arm({0: True, 1: True, 2: False, 3: True}, {"A": 0.8, "B": 0.2})
    found = score(arm({0: True, 1: None, 2: True}, {"A": 0.6, "B": 0.4}), full)
    assert (found.paired.common, found.paired.right) == (4, 3)
    assert (found.paired.lost, found.paired.won) == (2, 1), "an error and a question that was not asked"
    assert found.change == pytest.approx(-25)
    assert found.edges == 0.25
    assert score(full, full).change == 0
    unknown = score(arm({0: True}), arm({0: True}))
    assert unknown.change != unknown.change, "nan where no probability was written down"
    assert unknown.is_promising(0.02)
