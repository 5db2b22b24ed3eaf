"""docs/families.md from what was tried."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from tests.support.native_families import NATIVE

HEAD = """# Families

Written by `python -m scripts.families --write`. The runs behind it, on a CPU in fp32: {runs}.
{newest}

Each family was run by `hf_video_flow` on a tiny checkpoint of random weights, three layers deep, made of its
own configuration and processor classes, with a chat template of the published one's form. No published checkpoint was
loaded: names, layers and tokens are those of model cards and of transformers' documentation, layers where one of them
says it. `lmms-flow verify` runs the same checks on a published one.

The unit is that of `cross_frame`. {count} families pass all checks that could be tried.
What a check does is in [adding-a-model.md](adding-a-model.md). Any of them runs as `hf_video_flow`; a model id of its
own has a default checkpoint. The paper's checkpoints in their original form, LLaVA-NeXT-Video, Mini-InternVL and
VideoLLaMA3, have wrappers and tests of their own.

| family | model id | published checkpoint | layers | tokens a frame | unit | mechanism | class | passed / not tried |
|---|---|---|---|---|---|---|---|---|
"""
MIDDLE = """
## Every check

`yes`, `NO`, or `-` for one that could not be tried, whose reason is below.

"""
REASONS = """
What was not tried:

"""
STOCK = """
## lmms-eval's own wrappers

Those of lmms-eval {lmms_eval} that load a tiny checkpoint of the same class here, on a CPU, and answer a question about
a video are asked beside ours, about the same prompt and frames. What enters the first layer of the decoder is equal
bit for bit, and the answer is the same (`tests/test_host_stock_models.py`, in which InternVL's processor decodes by
PyAV: this environment has no torchcodec).

| compared | ours |
|---|---|
| `qwen2_vl` | `hf_video_flow` |
| `qwen2_5_vl` (chat) | `qwen2_5_vl_flow` |
| `qwen3_vl` (chat) | `qwen3_vl_flow` |
| `internvl_hf` (chat) | `internvl_flow` |

| not compared | why |
|---|---|
| `huggingface` | it loads `AutoModel`, which has no `generate`, for every model of pictures and text |
| `llava_hf` (chat) | it hands over an empty list of pictures, at which the processor of LLaVA-OneVision fails |
| `llava_hf` (simple) | it writes no placeholder of a video into the prompt, and the processor refuses the video |
| `gemma3` | it reads frames as JPEG of quality 85: other pixels |
| `glm4v` | it hands the video's file over as a picture |
| `video_llava` | it calls lmms-eval's own `read_video` in a way that this version no longer has |
| `videollama3` | it loads `AutoModelForCausalLM`, which knows checkpoints with code of their own alone |
| `internvl3`, `internvl3_5` | they load checkpoints with code of their own; the native class refuses their arguments |
| `internvl2` | it needs a GPU |
| `llava_onevision`, `llava_vid` | they need the package `llava` |
| `plm` | it needs Perception LM's own repository |
"""


def page(found: Mapping[str, Mapping[str, Any]], newest: str = "") -> str:
    """The whole page.

    Args:
        found: what was tried, by family.
        newest: what is known of the newest versions, in a sentence.
    """
    passing = [
        name for name, known in found.items() if all(one["passed"] is not False for one in known["findings"])
    ]
    runs = "; ".join(dict.fromkeys(known["run"] for known in found.values()))
    text = HEAD.format(runs=runs, count=len(passing), newest=newest)
    text += "".join(_row(name, known) for name, known in found.items())
    others = ", ".join(f"`{name}`" for name in NATIVE if name not in found)
    if others:
        text += f"\nNot tried for this page: {others}.\n"
    return (
        text
        + MIDDLE
        + _checks(found)
        + REASONS
        + _reasons(found)
        + STOCK.format(lmms_eval=version("lmms-eval"))
    )


def _row(name: str, known: Mapping[str, Any]) -> str:
    checkpoint, layers, tokens = NATIVE[name].published
    verdicts = [one["passed"] for one in known["findings"]]
    unit = "frame" if known["unit"] == 1 else f"{known['unit']} frames"
    counted = f"{verdicts.count(True)} / {verdicts.count(None)}"
    if False in verdicts:
        counted += f", {verdicts.count(False)} FAILED"
    ids = ", ".join(f"`{one}`" for one in known["model_ids"])
    cells = [f"`{name}`", ids, f"`{checkpoint}`" if checkpoint else "", layers or "", tokens, unit]
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
