"""Find flow-tiny's effective pathway by the paper's rule (appendix H): python -m scripts.flow_tiny.find_pathway.

Each of the three kinds of edges of a pathway is cut in the window around each layer, on clips that are neither in the
benchmark nor in the training. The mean relative change of the answer's probability, over the questions that the model
answers right, is averaged over bins of layers; a bin below -5 % is effective. Window and bins are the paper's, scaled
to 12 layers. The same is done for the other ways from the video to the last token; no range follows from those.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from tqdm import tqdm

from lmms_flow.assets import flow_tiny_dir
from lmms_flow.engine import SweepResult, sweep
from lmms_flow.flow import Flow
from lmms_flow.flow.pathway import KINDS, NOWHERE
from lmms_flow.inputs.groups import find_groups
from lmms_flow.inputs.video import read_frames
from lmms_flow.model_wrappers.llava_vid import LlavaVidFlow
from lmms_flow.tasks.questions import doc_to_messages, doc_to_text
from lmms_flow.trace import LayerBins, mean_relative_change, scaled_to_depth
from lmms_flow.trace.discovery import EFFECTIVE, PAPER_BIN, PAPER_WINDOW
from scripts.flow_tiny.card import one_decimal
from scripts.flow_tiny.data import Stream
from scripts.flow_tiny.edges import PLANTED
from scripts.flow_tiny.model import NUM_FRAMES, NUM_LAYERS
from scripts.flow_tiny.text import build_tokenizer
from scripts.flow_tiny.train import DEFAULTS
from scripts.flowbench.build import documents
from scripts.flowbench.encode import encode
from scripts.flowbench.groups import Group, all_groups
from scripts.flowbench.questions import FAMILIES
from scripts.flowbench.render import render
from scripts.flowbench.specs import Clip

SEED = 1  # of flowbench's generator; the benchmark's own is 0
BESIDE = ("video:tail", "video:last", "tail:last")  # ways past the question
KNOCKOUTS = (*KINDS, *BESIDE)
WINDOW = scaled_to_depth(PAPER_WINDOW, NUM_LAYERS)
BIN = scaled_to_depth(PAPER_BIN, NUM_LAYERS)
DIGITS = 4  # of a per cent


@dataclass(frozen=True)
class Swept:
    """One question with all knockouts in all windows."""

    family: str
    right: bool  # without a cut
    result: SweepResult


def known_clips() -> frozenset[Clip]:
    """Every clip of the benchmark and of the training of the shipped weights."""
    stream = Stream(build_tokenizer(), DEFAULTS.seed)
    return stream.kept_apart | {clip for step in range(DEFAULTS.steps) for clip in stream.clip_specs(step)}


def fresh_groups(seed: int) -> list[tuple[str, int, Group]]:
    """Groups made as the benchmark's are. One with a known clip is left out whole, so that the others stay balanced."""
    known = known_clips()
    return [entry for entry in all_groups(seed) if known.isdisjoint(entry[2].clips)]


def questions(groups: list[tuple[str, int, Group]], folder: Path) -> Iterator[dict[str, Any]]:
    """Documents as the task has them, each with its clip as a file, which the next one overwrites."""
    file = folder / "clip.mp4"
    for family, number, group in groups:
        for row, clip in zip(documents(family, number, group), group.clips, strict=True):
            encode(render(clip), file)
            yield {**row, "video": str(file), "start": None, "end": None}


def sweep_question(model: LlavaVidFlow, document: Any) -> Swept:
    """The prompt as the wrapper makes it for this document, and every knockout on it."""
    chat, named = model.chat, Flow.load("+".join(KNOCKOUTS))
    frames = read_frames(document["video"], NUM_FRAMES)
    prompt, tensors = chat.prompt(chat.render(doc_to_messages(document)), frames)
    layout = find_groups(prompt, doc_to_text(document), document, named).layout
    result = sweep(model.model, chat.batch([prompt], [tensors]), layout, KNOCKOUTS, window=WINDOW)
    said = chat.tokenizer.decode([result.answer])
    return Swept(document["family"], said == document["answer_letter"], result)


def written(layers: range) -> str:
    """As a pathway writes it: 1-4, or none."""
    return f"{layers[0]}-{layers[-1]}" if layers else NOWHERE


def mean_curves(swept: list[Swept]) -> dict[str, Tensor]:
    """Each knockout's curve in per cent, over the questions that the model answers right."""
    curves = mean_relative_change(one.result for one in swept if one.right)
    return dict(zip(KNOCKOUTS, curves, strict=True))


def effective(curve: Tensor) -> str:
    """The range that follows from a curve by the rule."""
    return written(LayerBins.of(curve, BIN).effective())


def planted() -> dict[str, str]:
    """The ranges that training asked for, by kind of edge."""
    bound = PLANTED.bind(NUM_LAYERS).pathway
    assert bound is not None
    ranges = (bound.cross_frame, bound.video_question, bound.question_last)
    return dict(zip(KINDS, map(written, ranges), strict=True))


def borders(found: str, asked: str) -> tuple[int, int] | None:
    """How many layers the found range's first and last layer lie beside the planted ones; None without a range."""
    if NOWHERE in (found, asked):
        return None
    (first, last), (low, high) = ([int(end) for end in text.split("-")] for text in (found, asked))
    return first - low, last - high


def off_by(ranges: Mapping[str, str]) -> dict[str, tuple[int, int] | None]:
    """The same for each kind of edge of a pathway."""
    return {kind: borders(ranges[kind], layers) for kind, layers in planted().items()}


def rounded(values: Iterable[float]) -> list[float]:
    return [round(float(value), DIGITS) + 0.0 for value in values]  # + 0.0: no minus before a zero


def by_layers(curve: Tensor) -> dict[str, float]:
    """The mean of each bin, under the layers that it holds."""
    bins = LayerBins.of(curve, BIN)
    names = [written(bins.layers(number)) for number in range(len(bins.means))]
    return dict(zip(names, rounded(bins.means), strict=True))


def summary(swept: list[Swept]) -> dict[str, Any]:
    """What was found: by the paper's rule over all families, and what each family alone would have given."""
    curves = mean_curves(swept)
    families = {name: [one for one in swept if one.family == name and one.right] for name in FAMILIES}
    ranges = {name: effective(curve) for name, curve in curves.items()}
    by_family = {
        family: {name: effective(curve) for name, curve in mean_curves(mine).items()}
        for family, mine in families.items()
        if mine
    }
    return {
        "asked": len(swept),
        "right": sum(one.right for one in swept),
        "window": WINDOW,
        "bin": BIN,
        "below": EFFECTIVE,
        "pathway": {name: ranges[name] for name in KINDS},
        "planted": planted(),
        "off_by": off_by(ranges),
        "beside": {name: ranges[name] for name in BESIDE},
        "bins": {name: by_layers(curve) for name, curve in curves.items()},
        "curves": {name: rounded(curve) for name, curve in curves.items()},
        "families": by_family,
        "families_off_by": {family: off_by(found) for family, found in by_family.items()},
    }


def find(seed: int, every: int = 1) -> dict[str, Any]:
    """Sweeps every n-th group of a seed on one thread and applies the rule."""
    torch.set_num_threads(1)  # the same sums in the same order on any machine
    model = LlavaVidFlow(pretrained="flow-tiny", device="cpu", dtype="float32", records="none")
    groups = fresh_groups(seed)[::every]
    total = sum(len(group.clips) for _, _, group in groups)
    with tempfile.TemporaryDirectory() as folder:
        asked = tqdm(questions(groups, Path(folder)), total=total, desc="questions")
        swept = [sweep_question(model, document) for document in asked]
    weights = hashlib.sha256((flow_tiny_dir() / "model.safetensors").read_bytes()).hexdigest()
    return {"weights_sha256": weights, "layers": NUM_LAYERS, "seed": seed, **summary(swept)}


def show(found: dict[str, Any]) -> Table:
    """The bins of every knockout in per cent and what follows; in brackets where no range of a pathway follows."""
    bins: dict[str, dict[str, float]] = found["bins"]
    layers = found["pathway"] | {name: f"({other})" for name, other in found["beside"].items()}
    title = f"{found['right']} of {found['asked']} questions right"
    table = Table("knockout", *bins[KINDS[0]], "effective", title=title)
    for name, means in bins.items():
        table.add_row(name, *map(one_decimal, means.values()), layers[name])
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="JSON file")
    parser.add_argument("--seed", type=int, default=SEED)
    args = parser.parse_args()
    found = find(args.seed)
    args.out.write_text(json.dumps(found, indent=1) + "\n")
    Console().print(show(found))


if __name__ == "__main__":
    main()
