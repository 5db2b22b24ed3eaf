"""`python -m scripts.families [NAME ...] [--write]`: tries families, and writes the page of what is known."""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import asdict
from datetime import date
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

from lmms_flow.engine import find_decoder
from lmms_flow.engine.both_ways import reads_both_ways
from lmms_flow.engine.windows import layer_windows
from lmms_flow.harness.ground import MODELS
from lmms_flow.model_wrappers.hf_video import HfVideoFlow
from lmms_flow.testing import conformance
from lmms_flow.testing.case import Case
from scripts.families.page import page
from tests.support.clips import write_clip
from tests.support.native import write
from tests.support.native_families import NATIVE

# Looked up in the registries on that day; write it anew with the page.
NEWEST = (
    "These were the newest releases of both on 2026-11-26, so the lock's versions and the newest are one run."
)
KNOWN = Path("out/families")  # what was tried, one file a family; delete it to try all anew


def main() -> None:
    """Tries the families that are named, all by default, and with --write writes the page of all that are known."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="of a family (all)")
    parser.add_argument("--write", action="store_true", help="write docs/families.md")
    arguments = parser.parse_args()
    KNOWN.mkdir(parents=True, exist_ok=True)
    for name in arguments.names or NATIVE:
        if known(name) is None:
            found = tried(name)
            (KNOWN / f"{name}.json").write_text(json.dumps(found, indent=1))
            print(name, summary(found), flush=True)
    if arguments.write:
        all_known = {name: one for name in NATIVE if (one := known(name)) is not None}
        Path("docs/families.md").write_text(page(all_known, NEWEST))


def known(name: str) -> dict[str, Any] | None:
    """What was found of a family with the versions that are installed; None where it was not tried with these."""
    file = KNOWN / f"{name}.json"
    found: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    return found if found.get("versions") == versions() else None


def versions() -> str:
    """Of what a family is made of."""
    return f"transformers {version('transformers')} and torch {version('torch').split('+')[0]}"


def model_ids(kind: str) -> list[str]:
    """The names in lmms-eval that run this type of model and no other's."""
    found = []
    for name, place in MODELS.items():
        module, _, wrapper = place.rpartition(".")
        if kind in getattr(import_module(module), wrapper).model_types:
            found.append(name)
    return found


def tried(name: str) -> dict[str, Any]:
    """What the conformance suite says of a family's tiny checkpoint, and what the model is."""
    with tempfile.TemporaryDirectory() as folder:
        clip = write_clip(Path(folder) / "clip.mp4", frames=48, fps=12)
        source = write(NATIVE[name], Path(folder) / name, layers=3)
        wrapper = HfVideoFlow(pretrained=str(source), records="none", device="cpu")
        found = [asdict(one) for one in conformance(wrapper, clip)]
        prompt = Case(wrapper, clip).asked.prompt
        return {
            "versions": versions(),
            "run": f"{date.today()} with {versions()}",
            "model_ids": model_ids(wrapper.model.config.model_type),
            "class": type(wrapper.model).__name__,
            "unit": prompt.unit,
            "mechanism": mechanism(wrapper.model),
            "findings": found,
        }


def mechanism(model: Any) -> str:
    """How tokens read one another in a model, in words."""
    told = []
    if reads_both_ways(model):
        told.append("visual tokens read both ways")
    if any(layer_windows(find_decoder(model))):
        told.append("sliding windows")
    if hasattr(model.config.get_text_config(), "rope_parameters") and "mrope_section" in str(model.config):
        told.append("positions in three dimensions")
    if "deepstack" in str(model.config):
        told.append("visual features in the first layers")
    return ", ".join(told) or "plain causal"


def summary(found: dict[str, Any]) -> str:
    """How many checks passed, failed, and were not tried."""
    verdicts = [one["passed"] for one in found["findings"]]
    return f"{verdicts.count(True)} passed, {verdicts.count(False)} failed, {verdicts.count(None)} not tried"


if __name__ == "__main__":
    main()
