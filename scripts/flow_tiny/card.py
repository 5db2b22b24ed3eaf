"""Write flow-tiny's model card from what a run left behind.

    python -m scripts.flow_tiny.card --run DIR

where DIR holds log.jsonl (of train.py), scores.json (of evaluate.py), needs.json and arms.json (of needs.py),
pathway.json (of pathway.py), without_edge_dropout.json (the same arms of weights that were trained without) and
note.txt (what else to know of this training, as sentences). Those of the shipped weights are in scripts/flow_tiny/run.
"""

from __future__ import annotations

import argparse
import json
import os
from importlib.metadata import version
from pathlib import Path
from typing import Any

from scripts.flow_tiny.data import CURRICULUM, Mixture
from scripts.flow_tiny.edges import BESIDE, DIRECT, OUTSIDE, THE_WAY, EdgeDropout
from scripts.flow_tiny.evaluate import Rows
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
from scripts.flow_tiny.needs import MARGIN, SINGLE_FRAME
from scripts.flow_tiny.text import SYSTEM, build_tokenizer
from scripts.flow_tiny.train import DEFAULTS
from scripts.flowbench.questions import FAMILIES

ARM_NAMES = {
    "full": "full attention",
    "blind": "nothing after the video reads it",
    "single": "the middle frame alone",
    "text": "no video in the prompt",
}
Arms = dict[str, dict[str, Any]]  # as needs.py writes them
AT_CHANCE = (THE_WAY, "blind", SINGLE_FRAME)
MILESTONES = (0.1, 0.2, 0.3, 0.45, 0.6, 0.8, 1.0)  # of the steps, in the learning curve

TEMPLATE = Path(__file__).with_name("card.template.md")


def table(header: list[str], rows: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in [header, ["---"] * len(header), *rows])


def percent(row: dict[str, float], key: str = "accuracy") -> str:
    return f"{100 * row[key]:.1f} [{100 * row['low']:.1f}, {100 * row['high']:.1f}]"


def scores_table(scores: dict[str, Rows]) -> str:
    names = [*FAMILIES, "all"]
    arms = [arm for arm in ARM_NAMES if arm in scores]
    rows = [
        [f"`{name}`" if name != "all" else "all", str(scores["full"][name]["n"])]
        + [percent(scores[arm][name]) for arm in arms]
        + [f"{100 * scores['full'][name]['chance']:.1f}"]
        for name in names
    ]
    return table(["%", "documents", *(ARM_NAMES[arm] for arm in arms), "chance"], rows)


def pairs_table(pairs: Rows) -> str:
    names = [name for name in [*FAMILIES, "all"] if name in pairs]
    rows = [[f"`{n}`" if n != "all" else n, str(pairs[n]["n"]), percent(pairs[n], "share")] for n in names]
    return table(["%", "pairs right forwards", "right backwards too"], rows)


def curve_table(log: list[dict[str, Any]]) -> str:
    picked = [log[max(0, round(share * len(log)) - 1)] for share in MILESTONES]
    rows = [
        [str(row["step"]), *(f"{100 * row[f'letter/{family}']:.0f}" for family in FAMILIES)] for row in picked
    ]
    return table(["step", *(f"`{family}`" for family in FAMILIES)], rows)


def needs_table(arms: Arms) -> str:
    """Accuracy under each cut, of a run through lmms-eval."""
    rows = [
        [
            f"`{label}`",
            *(f"{100 * scores[name]['accuracy']:.1f}" for name in FAMILIES),
            percent(scores["all"]),
            f"{100 * scores['edges']:.0f}",
            p_value(scores["p"]),
            p_value(scores["equivalence"]),
        ]
        for label, scores in arms.items()
    ]
    names = [f"`{name}`" for name in FAMILIES]
    return table(["cut", *names, "all", "edges kept", "p", f"within {100 * MARGIN:.0f} points, p"], rows)


def chance_table(arms: Arms) -> str:
    """The arms in which no way from the video is left, family by family with intervals."""
    rows = [
        [f"`{label}`", *(percent(arms[label][name]) for name in (*FAMILIES, "all"))] for label in AT_CHANCE
    ]
    chance = [f"{100 * arms['none'][name]['chance']:.1f}" for name in (*FAMILIES, "all")]
    return table(["%", *(f"`{name}`" for name in FAMILIES), "all"], [*rows, ["chance", *chance]])


def ablation_table(arms: Arms, without: dict[str, Any]) -> str:
    """The same arms of the weights that were trained without edge dropout."""
    rows = [
        [f"`{label}`", f"{100 * arms[label]['all']['accuracy']:.1f}", f"{100 * before['all']:.1f}"]
        for label, before in without["arms"].items()
    ]
    return table(["%", "with edge dropout", "without"], rows)


def one_decimal(value: float) -> str:
    return f"{round(value, 1) + 0.0:.1f}"  # + 0.0: no minus before a zero


def pathway_table(found: dict[str, Any]) -> str:
    """Mean change in each bin and the range that follows; in brackets where it makes no part of a pathway."""
    bins: dict[str, dict[str, float]] = found["bins"]
    layers = found["pathway"] | {name: f"({other})" for name, other in found["beside"].items()}
    rows = [[f"`{name}`", *map(one_decimal, means.values()), layers[name]] for name, means in bins.items()]
    return table(["%, cut in layers", *next(iter(bins.values())), "effective"], rows)


def borders_table(found: dict[str, Any]) -> str:
    """Planted and found ranges, over all questions and of each family alone; in brackets how far off a border is."""
    kinds = found["planted"]

    def cells(ranges: dict[str, str], off_by: dict[str, list[int] | None]) -> list[str]:
        return [f"{ranges[kind]}{off(off_by[kind])}" for kind in kinds]

    rows = [["planted", *kinds.values()], ["found", *cells(found["pathway"], found["off_by"])]]
    rows += [
        [f"`{family}` alone", *cells(ranges, found["families_off_by"][family])]
        for family, ranges in found["families"].items()
    ]
    return table(["layers", *(f"`{kind}`" for kind in kinds)], rows)


def off(borders: list[int] | None) -> str:
    """By how many layers the first and the last layer of a range are off; nothing where they are not."""
    return f" ({borders[0]:+d}, {borders[1]:+d})".replace("+0", "0") if borders and any(borders) else ""


def of_all(arms: Arms, label: str) -> str:
    return f"{100 * arms[label]['all']['accuracy']:.1f} %"


def ranges_of(found: dict[str, Any]) -> str:
    return ", ".join(f"`{kind}` {layers}" for kind, layers in found["pathway"].items())


def edge_fields() -> dict[str, Any]:
    """What the template says of the edges that training drew."""
    drawn = EdgeDropout()
    return {
        "outside": ", ".join(f"`{rule}`" for rule in OUTSIDE),
        "beside": ", ".join(f"`{rule}`" for rule in BESIDE),
        "drawn_nothing": f"{100 * drawn.nothing:.0f} %",
        "drawn_whole": f"{100 * drawn.whole:.0f} %",
        "drawn_cut_off": f"{100 * drawn.unanswerable:.0f} %",
        "drawn_direct": f"{100 * drawn.direct:.0f} %",
        "drawn_kind": f"{100 * drawn.kind:.0f} %",
        "drawn_kind_cut_off": f"{100 * drawn.kind_unanswerable:.0f} %",
        "drawn_rest": f"{100 * (1 - drawn.nothing - drawn.whole - drawn.unanswerable):.0f} %",
    }


def pathway_fields(found: dict[str, Any], arms: Arms) -> dict[str, Any]:
    """What the template says of the effective pathway and of its score."""
    return {
        "asked": found["asked"],
        "right": found["right"],
        "generator_seed": found["seed"],
        "knockout_window": found["window"],
        "bin": found["bin"],
        "below": f"{found['below']:g}",
        "pathway": pathway_table(found),
        "ranges": ranges_of(found),
        "borders": borders_table(found),
        "arms": needs_table(arms),
        "full": of_all(arms, "none"),
        "effective": of_all(arms, "effective"),
        "closed": of_all(arms, "effective_closed"),
        "effective_edges": f"{100 * arms['effective']['edges']:.0f} %",
        "closed_edges": f"{100 * arms['effective_closed']['edges']:.0f} %",
        "random": ", ".join(of_all(arms, f"random:effective:seed{seed}") for seed in (1, 2, 3)),
        "mirrored": of_all(arms, "mirrored:effective"),
        "the_way": THE_WAY,
        "without_the_way": of_all(arms, THE_WAY),
        "direct": "+".join(DIRECT),
        "without_direct": of_all(arms, "+".join(DIRECT)),
        "chance_table": chance_table(arms),
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
    log: list[dict[str, Any]],
    scores: dict[str, Rows],
    needs: Arms,
    pathway: dict[str, Any],
    arms: Arms,
    without: dict[str, Any],
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
        ablation=ablation_table(arms, without),
        old_ranges=ranges_of(without),
        **edge_fields(),
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
    needs, pathway, arms, without = (
        json.loads((args.run / f"{name}.json").read_text())
        for name in ("needs", "pathway", "arms", "without_edge_dropout")
    )
    note = (args.run / "note.txt").read_text().strip()
    args.out.write_text(card(log, scores, needs, pathway, arms, without, note), encoding="utf-8")


if __name__ == "__main__":
    main()
