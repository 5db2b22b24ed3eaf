"""Score flow-tiny on flowbench with one kind of edge cut at a time, through lmms-eval: what does it need?

    python -m scripts.flow_tiny.needs --out needs.json
    python -m scripts.flow_tiny.needs --pathway --out arms.json

runs `lmms-flow eval` once for each cut (some minutes) and writes accuracies by family; the model card shows them. With
--pathway the cuts are the effective pathway, its controls, and what tells why it scores as it does.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tqdm import tqdm

from lmms_flow.report.runs import read_arms
from lmms_flow.report.statistics import accuracy, paired
from scripts.flowbench.questions import FAMILIES

CUTS = (
    "cross_frame",
    "cross_frame@first_half",
    "cross_frame@second_half",
    "video:question",
    "video:question@first_half",
    "video:question@second_half",
    "video:tail+video:last",
    "question:last",
    "question:last@first_half",
    "question:last@second_half",
    "stem:options",
    "stem:last",
)
PATHWAY_ARMS = (
    "effective",
    "effective_closed",
    "random:effective:seed1",
    "mirrored:effective",
    "video:last",
    "video:tail",
    "cross_frame@5-12+video:question+last:last",  # what `effective` cuts, without video:last
)


def run(flow: str, folder: Path) -> None:
    """One arm through the command line; raises CalledProcessError where it fails."""
    model_args = f"pretrained=flow-tiny,flow={flow},records=none"
    program = Path(sys.executable).with_name("lmms-flow")
    command = [
        str(program),
        "eval",
        "--model",
        "llava_vid_flow",
        "--model_args",
        model_args,
        "--tasks",
        "flowbench",
    ]
    command += ["--batch_size", "4", "--log_samples", "--output_path", str(folder), "--verbosity", "ERROR"]
    subprocess.run(command, check=True, capture_output=True, text=True)


def table(folder: Path) -> dict[str, Any]:
    """Accuracy of each arm by family, its share of edges, and McNemar's p against full attention."""
    arms = read_arms([folder])
    baseline = next(arm for arm in arms if arm.is_baseline)
    return {
        arm.flow: {
            "edges": arm.share_kept,
            "p": paired(arm, baseline).p_value,
            "all": accuracy(arm).value,
            **{family: accuracy(arm, f"flowbench_{family}").value for family in FAMILIES},
        }
        for arm in arms
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--pathway", action="store_true", help="the pathway and its controls, not the single cuts"
    )
    args = parser.parse_args()
    flows = PATHWAY_ARMS if args.pathway else CUTS
    with tempfile.TemporaryDirectory() as folder:
        for flow in tqdm(("none", *flows), desc="arms"):
            run(flow, Path(folder))
        args.out.write_text(json.dumps(table(Path(folder)), indent=1) + "\n")


if __name__ == "__main__":
    main()
