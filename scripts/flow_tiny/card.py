"""Write flow-tiny's model card from what a run left behind.

    python -m scripts.flow_tiny.card --run DIR

where DIR holds log.jsonl (of train.py), scores.json (of evaluate.py), needs.json and arms.json (of needs.py),
pathway.json (of pathway.py) and note.txt (what else to know of this training, as sentences). Those of the shipped
weights are in scripts/flow_tiny/run.
"""

from __future__ import annotations

import argparse
import json
import os
from importlib.metadata import version
from pathlib import Path
from typing import Any

from scripts.flow_tiny.data import CURRICULUM, Mixture
from scripts.flow_tiny.export import SHIPPED
from scripts.flow_tiny.model import (
    ANSWER_LAYER,
    NUM_LAYERS,
    OPTION_LAYER,
    POINTER_LAYERS,
    STORY_LAYER,
    WIDTH,
    build_model,
)
from scripts.flow_tiny.text import SYSTEM, build_tokenizer
from scripts.flow_tiny.train import DEFAULTS
from scripts.flowbench.questions import FAMILIES

ARM_NAMES = {
    "full": "full attention",
    "blind": "nothing after the video reads it",
    "single": "the middle frame alone",
    "text": "no video in the prompt",
}
MILESTONES = (0.1, 0.2, 0.3, 0.45, 0.6, 0.8, 1.0)  # of the steps, in the learning curve

TEMPLATE = Path(__file__).with_name("card.template.md")


def table(header: list[str], rows: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in [header, ["---"] * len(header), *rows])


def percent(row: dict[str, float], key: str = "accuracy") -> str:
    return f"{100 * row[key]:.1f} [{100 * row['low']:.1f}, {100 * row['high']:.1f}]"


def scores_table(scores: dict[str, dict]) -> str:
    names = [*FAMILIES, "all"]
    arms = [arm for arm in ARM_NAMES if arm in scores]
    rows = [
        [f"`{name}`" if name != "all" else "all", str(scores["full"][name]["n"])]
        + [percent(scores[arm][name]) for arm in arms]
        + [f"{100 * scores['full'][name]['chance']:.1f}"]
        for name in names
    ]
    return table(["%", "documents", *(ARM_NAMES[arm] for arm in arms), "chance"], rows)


def pairs_table(pairs: dict[str, dict]) -> str:
    names = [name for name in [*FAMILIES, "all"] if name in pairs]
    rows = [[f"`{n}`" if n != "all" else n, str(pairs[n]["n"]), percent(pairs[n], "share")] for n in names]
    return table(["%", "pairs right forwards", "right backwards too"], rows)


def curve_table(log: list[dict]) -> str:
    picked = [log[max(0, round(share * len(log)) - 1)] for share in MILESTONES]
    rows = [
        [str(row["step"]), *(f"{100 * row[f'letter/{family}']:.0f}" for family in FAMILIES)] for row in picked
    ]
    return table(["step", *(f"`{family}`" for family in FAMILIES)], rows)


def needs_table(needs: dict[str, dict]) -> str:
    """Accuracy under each cut, of a run through lmms-eval."""
    names = [*FAMILIES, "all"]
    rows = [
        [
            f"`{flow}`",
            *(f"{100 * scores[name]:.1f}" for name in names),
            f"{100 * scores['edges']:.0f}",
            p_value(scores["p"]),
        ]
        for flow, scores in needs.items()
    ]
    return table(["cut", *(f"`{name}`" for name in FAMILIES), "all", "edges kept", "p"], rows)


def one_decimal(value: float) -> str:
    return f"{round(value, 1) + 0.0:.1f}"  # + 0.0: no minus before a zero


def pathway_table(found: dict[str, Any]) -> str:
    """Mean change in each bin and the range that follows; in brackets where it makes no part of a pathway."""
    bins: dict[str, dict[str, float]] = found["bins"]
    layers = found["pathway"] | {name: f"({other})" for name, other in found["beside"].items()}
    rows = [[f"`{name}`", *map(one_decimal, means.values()), layers[name]] for name, means in bins.items()]
    return table(["%, cut in layers", *next(iter(bins.values())), "effective"], rows)


def families_table(found: dict[str, Any]) -> str:
    """The ranges that one family alone would have given."""
    rows = [
        [f"`{family}`", *(ranges[kind] for kind in found["pathway"])]
        for family, ranges in found["families"].items()
    ]
    return table(["family", *(f"`{kind}`" for kind in found["pathway"])], rows)


def of_all(arms: dict[str, dict[str, float]], flow: str) -> str:
    return f"{100 * arms[flow]['all']:.1f} %"


def pathway_fields(found: dict[str, Any], arms: dict[str, dict[str, float]]) -> dict[str, Any]:
    """What the template says of the effective pathway and of its score."""
    return {
        "asked": found["asked"],
        "right": found["right"],
        "generator_seed": found["seed"],
        "knockout_window": found["window"],
        "bin": found["bin"],
        "below": f"{found['below']:g}",
        "pathway": pathway_table(found),
        "ranges": ", ".join(f"`{kind}` {layers}" for kind, layers in found["pathway"].items()),
        "families": families_table(found),
        "arms": needs_table(arms),
        "effective": of_all(arms, "effective"),
        "random": of_all(arms, "random:effective:seed1"),
        "video_last": of_all(arms, "video:last"),
        "video_tail": of_all(arms, "video:tail"),
        "opened": of_all(arms, "cross_frame@5-12+video:question+last:last"),
    }


def p_value(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def machine() -> str:
    """The processor's name and number of cores, where the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        name = "a processor of unknown name"
    return f"{name} ({os.cpu_count()} cores, no GPU)"


def card(
    log: list[dict],
    scores: dict[str, dict],
    needs: dict[str, dict],
    pathway: dict[str, Any],
    arms: dict[str, dict],
    note: str,
) -> str:
    tokenizer = build_tokenizer()
    parameters = sum(p.numel() for p in build_model(tokenizer).parameters())
    packages = ("torch", "transformers", "tokenizers", "numpy")
    return TEMPLATE.read_text(encoding="utf-8").format(
        system=SYSTEM,
        parameters=f"{parameters / 1e6:.1f} million",
        layers=NUM_LAYERS,
        width=WIDTH,
        vocabulary=len(tokenizer),
        scores=scores_table(scores),
        pairs=pairs_table(scores["pairs"]),
        needs=needs_table(needs),
        **pathway_fields(pathway, arms),
        chance=f"{100 * scores['full']['all']['chance']:.1f} %",
        clips=Mixture.clips,
        branches=Mixture.branches,
        copies=Mixture.copies,
        switch=max(CURRICULUM),
        note=f" {note}" if note else "",
        steps=f"{log[-1]['step']:,}",
        minutes=round(log[-1]["seconds"] / 60),
        machine=machine(),
        plural="" if DEFAULTS.threads == 1 else "s",
        versions=", ".join(f"{name} {version(name)}" for name in packages),
        story=STORY_LAYER,
        answer=ANSWER_LAYER,
        option=OPTION_LAYER,
        pointers=" and ".join(map(str, POINTER_LAYERS)),
        window=log[-1]["step"] - log[-2]["step"],
        curve=curve_table(log),
        seed=DEFAULTS.seed,
        peak=DEFAULTS.peak,
        threads=DEFAULTS.threads,
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--run", type=Path, default=Path(__file__).with_name("run"))
    parser.add_argument("--out", type=Path, default=SHIPPED / "README.md")
    args = parser.parse_args()
    log = [json.loads(line) for line in (args.run / "log.jsonl").read_text().splitlines()]
    scores = json.loads((args.run / "scores.json").read_text())["table"]
    needs, pathway, arms = (
        json.loads((args.run / f"{name}.json").read_text()) for name in ("needs", "pathway", "arms")
    )
    note = (args.run / "note.txt").read_text().strip()
    args.out.write_text(card(log, scores, needs, pathway, arms, note), encoding="utf-8")


if __name__ == "__main__":
    main()
