"""Score flow-tiny on flowbench under many flows in one run of lmms-eval: what does it need, and does the pathway hold?

    python -m scripts.flow_tiny.needs --out needs.json
    python -m scripts.flow_tiny.needs --pathway --out arms.json

Each flow is an arm, as a user writes one: four lines of YAML. With --pathway they are the effective pathway, the
planted one, and controls; otherwise one kind of edge is cut at a time. The model card shows both.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lmms_flow.report.arms import Arm
from lmms_flow.report.pairing import paired
from lmms_flow.report.runs import read_arms
from lmms_flow.report.statistics import accuracy
from scripts.flow_tiny.edges import AFTER_IT, BEFORE_IT, DIRECT, OUTSIDE, THE_WAY
from scripts.flowbench.questions import FAMILIES

SINGLE_FRAME = "single frame"
MARGIN = 0.02  # within which an arm counts as equal to full attention
CUTS = {
    flow: flow
    for flow in (
        "cross_frame",
        "cross_frame@first_half",
        "cross_frame@second_half",
        "video:question",
        THE_WAY,
        f"{BEFORE_IT}+{AFTER_IT}",
        "video:gap",
        "+".join(DIRECT),
        "question:last",
        "question:last@first_half",
        "question:last@second_half",
        "question:tail",
        "stem:options",
        "stem:last",
    )
}
PATHWAY_ARMS = {
    "effective": "effective",
    "effective_closed": "effective_closed",
    "planted, closed": "+".join(OUTSIDE),
    "random:effective:seed1": "random:effective:seed1",
    "random:effective:seed2": "random:effective:seed2",
    "random:effective:seed3": "random:effective:seed3",
    "mirrored:effective": "mirrored:effective",
    "video:question": "video:question",
    THE_WAY: THE_WAY,
    "+".join(DIRECT): "+".join(DIRECT),
    "blind": "blind",
    SINGLE_FRAME: "none",
}


def write_arms(flows: Mapping[str, str], folder: Path) -> list[str]:
    """A task for each flow, as files for lmms-eval's --include_path; returns the tasks' names."""
    names = []
    for number, (label, flow) in enumerate(flows.items(), 1):
        names.append(f"arm_{number}")
        lines = [f"task: {names[-1]}", "class: !function lmms_flow.harness.flow_task.FlowTask"]
        lines += ["base: flowbench", f"flow: {flow}"]
        if label == SINGLE_FRAME:
            lines.append("num_frames: 1")
        (folder / f"{names[-1]}.yaml").write_text("\n".join(lines) + "\n")
    return names


def run(flows: Mapping[str, str], folder: Path) -> list[Arm]:
    """Full attention and every flow, on the same prompts and frames; raises CalledProcessError where the run fails."""
    tasks, results = folder / "tasks", folder / "results"
    tasks.mkdir()
    names = write_arms(flows, tasks)
    program = Path(sys.executable).with_name("lmms-flow")
    command = [str(program), "eval", "--model", "llava_vid_flow"]
    command += ["--model_args", "pretrained=flow-tiny,records=none", "--include_path", str(tasks)]
    command += ["--tasks", ",".join(["flowbench", *names]), "--log_samples", "--output_path", str(results)]
    subprocess.run([*command, "--verbosity", "ERROR"], check=True)
    return read_arms([results])


def row(arm: Arm, baseline: Arm, subtask: str | None = None) -> dict[str, float]:
    """One arm's accuracy with its 95 % Wilson interval, over all questions or those of one family."""
    found = accuracy(arm, subtask)
    low, high = found.interval
    return {
        "n": found.total,
        "accuracy": found.value,
        "low": low,
        "high": high,
        "chance": baseline.chance(subtask),
    }


def table(flows: Mapping[str, str], arms: list[Arm]) -> dict[str, Any]:
    """By arm: accuracies, the share of edges, McNemar's p and the p of a difference beyond MARGIN (TOST)."""
    frames = max(arm.frames for arm in arms)
    found = {(arm.flow, arm.frames): arm for arm in arms}
    baseline = found["none", frames]
    rows = {}
    for label, flow in {"none": "none", **flows}.items():
        arm = found[flow, 1 if label == SINGLE_FRAME else frames]
        beside = paired(arm, baseline)
        rows[label] = {
            "flow": arm.flow,
            "edges": arm.share_kept,
            "p": beside.p_value,
            "equivalence": beside.equivalence(MARGIN),
            "difference": beside.difference,
            "all": row(arm, baseline),
            **{family: row(arm, baseline, f"flowbench_{family}") for family in FAMILIES},
        }
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--pathway", action="store_true", help="the pathway and its controls, not the single cuts"
    )
    args = parser.parse_args()
    flows = PATHWAY_ARMS if args.pathway else CUTS
    with tempfile.TemporaryDirectory() as folder:
        arms = run(flows, Path(folder))
    args.out.write_text(json.dumps(table(flows, arms), indent=1) + "\n")


if __name__ == "__main__":
    main()
