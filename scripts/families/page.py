"""docs/families.md from what was tried."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from typing import Any

import torch
import transformers

from tests.support.native_families import NATIVE

HEAD = """# Families

Written by `python -m scripts.families --write` on {today}, with transformers {transformers} and torch {torch}, on a CPU
in fp32. Each family was run by `hf_video_flow` on a tiny checkpoint of random weights, three layers deep, made of its
own configuration and processor classes and its published chat template. No published checkpoint was loaded: names,
layers and tokens are those of its model card, and `lmms-flow verify` runs the same checks on it.

The unit is that of `cross_frame`. {count} families pass all checks that could be tried.
What a check does is in [adding-a-model.md](adding-a-model.md).

| family | published checkpoint | layers | tokens a frame | unit | mechanism | class | passed / not tried |
|---|---|---|---|---|---|---|---|
"""
MIDDLE = """
## Every check

`yes`, `NO`, or `-` for one that could not be tried, whose reason is below.

"""
REASONS = """
What was not tried:

"""


def page(found: Mapping[str, Mapping[str, Any]]) -> str:
    """The whole page."""
    passing = [
        name for name, known in found.items() if all(one["passed"] is not False for one in known["findings"])
    ]
    text = HEAD.format(
        today=date.today(),
        transformers=transformers.__version__,
        torch=torch.__version__.split("+")[0],
        count=len(passing),
    )
    text += "".join(_row(name, known) for name, known in found.items())
    text += MIDDLE + _checks(found) + REASONS + _reasons(found)
    return text


def _row(name: str, known: Mapping[str, Any]) -> str:
    checkpoint, layers, tokens = NATIVE[name].published
    verdicts = [one["passed"] for one in known["findings"]]
    unit = "frame" if known["unit"] == 1 else f"{known['unit']} frames"
    counted = f"{verdicts.count(True)} / {verdicts.count(None)}"
    if False in verdicts:
        counted += f", {verdicts.count(False)} FAILED"
    cells = [f"`{name}`", f"`{checkpoint}`" if checkpoint else "", layers or "", tokens, unit]
    return f"| {' | '.join(map(str, [*cells, known['mechanism'], known['class'], counted]))} |\n"


def _checks(found: Mapping[str, Mapping[str, Any]]) -> str:
    names = list(dict.fromkeys(one["name"] for known in found.values() for one in known["findings"]))
    own = [name for name in names if not name.startswith("self-check")]
    text = "| family | self-check | " + " | ".join(own) + " |\n|" + "---|" * (len(own) + 2) + "\n"
    for family, known in found.items():
        by_name = {one["name"]: one["passed"] for one in known["findings"]}
        checks = [passed for name, passed in by_name.items() if name.startswith("self-check")]
        cells = [f"`{family}`", "yes" if all(checks) else "NO", *(_mark(by_name.get(name)) for name in own)]
        text += f"| {' | '.join(cells)} |\n"
    return text


def _mark(passed: bool | None) -> str:
    return {True: "yes", False: "NO", None: "-"}[passed]


def _reasons(found: Mapping[str, Mapping[str, Any]]) -> str:
    reasons: dict[tuple[str, str], list[str]] = {}
    for family, known in found.items():
        for one in known["findings"]:
            if one["passed"] is None:
                reasons.setdefault((one["name"], one["detail"]), []).append(f"`{family}`")
    return "".join(f"- {name} ({', '.join(of)}): {why}\n" for (name, why), of in reasons.items())
