"""Visual tokens that read one another in both directions, beside sliding windows: held to masks written out by hand."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lmms_flow.engine import (
    UnsupportedModelError,
    decoder_layers,
    find_decoder,
    intervene,
    keep_masks,
    ledger,
    sweep,
)
from lmms_flow.engine.both_ways import edges_of, reads_both_ways
from lmms_flow.flow import Flow, Layout
from lmms_flow.model_wrappers.hf_video import HfVideoFlow
from lmms_flow.testing.case import Case
from tests.support.clips import write_clip
from tests.support.models import tiny
from tests.support.native import write
from tests.support.native_families import NATIVE

WINDOW = 24  # of gemma3's first and third layer
FLOWS = (
    "cross_frame",
    "intra_frame",
    "cross_frame@2+video:last@2",
    "video:question",
    "random:0.3:seed1",
    "sham",
)


@dataclass(frozen=True, eq=False)
class Asked:
    """A model with a real prompt, and which of its tokens read both ways with which."""

    model: Any
    inputs: dict[str, Tensor]
    layout: Layout
    blocks: Tensor  # [token], -1 for text
    windows: tuple[int | None, ...]

    @property
    def own(self) -> list[Tensor]:
        """Each layer's edges, bool [query, key], written out."""
        count = len(self.blocks)
        found = torch.zeros(count, count, dtype=torch.bool)
        for query in range(count):
            for key in range(count):
                together = self.blocks[query] == self.blocks[key] >= 0
                found[query, key] = key <= query or bool(together)
        places = torch.arange(count)
        near = places[:, None] - places[None] < WINDOW
        return [found & near if window else found for window in self.windows]

    def kept(self, flow: str) -> list[Tensor]:
        """The same under a flow; named rules cut both directions."""
        bound = Flow.load(flow).bind(len(self.windows))
        causal = keep_masks(flow, self.layout, len(self.windows))
        kept = []
        for own, keep, cuts in zip(self.own, causal, bound.cuts, strict=True):
            left = own & (keep | torch.ones_like(own).triu(1))
            named = {str(cut) for cut in cuts}
            for frame in self.layout.frames:
                for other in self.layout.frames:
                    if "cross_frame" in named and frame != other:
                        left[frame.start : frame.stop, other.start : other.stop] = False
                for token in frame if "intra_frame" in named else ():
                    left[token, [other for other in frame if other != token]] = False
            kept.append(left)
        return kept

    def by_hand(self, masks: list[Tensor]) -> Tensor:
        """The last token's logits, each layer given its mask by a hook."""
        layers = decoder_layers(find_decoder(self.model))
        handles = [
            layer.register_forward_pre_hook(_giving(mask[None, None]), with_kwargs=True)
            for layer, mask in zip(layers, masks, strict=True)
        ]
        try:
            return self.last()
        finally:
            for handle in handles:
                handle.remove()

    @torch.no_grad()
    def last(self) -> Tensor:
        logits: Tensor = self.model(**self.inputs, logits_to_keep=1).logits[0, -1]
        return logits


def _giving(mask: Tensor) -> Any:
    return lambda layer, args, kwargs: (args, {**kwargs, "attention_mask": mask})


@pytest.fixture(scope="module", params=["gemma3", "molmo2"])
def asked(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Asked:
    folder = tmp_path_factory.mktemp("native")
    clip = write_clip(folder / "clip.mp4")
    source = write(NATIVE[request.param], folder / "model", layers=3)
    case = Case(HfVideoFlow(pretrained=str(source), records="none", device="cpu"), clip)
    inputs = case.inputs(case.asked)
    kinds = inputs["token_type_ids" if request.param == "gemma3" else "mm_token_type_ids"][0] == 1
    blocks = torch.full((len(kinds),), -1)
    if request.param == "molmo2":
        blocks[kinds] = 0
    else:  # each picture on its own
        starts = kinds & ~torch.cat([torch.zeros(1, dtype=torch.bool), kinds[:-1]])
        blocks[kinds] = (starts.cumsum(0) - 1)[kinds]
    windows = (WINDOW, None, WINDOW) if request.param == "gemma3" else (None, None, None)
    return Asked(case.model, inputs, case.asked.layout, blocks, windows)


def apart(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max() / one.abs().max())


def test_the_model_reads_both_ways(asked: Asked) -> None:
    assert reads_both_ways(asked.model)
    assert any(own.triu(1).any() for own in asked.own)
    assert apart(asked.last(), asked.by_hand(asked.own)) <= 1e-5
    causal = [own.tril() for own in asked.own]
    assert apart(asked.last(), asked.by_hand(causal)) > 1e-4


@pytest.mark.parametrize("engine", ["dense", "sparse"])
@pytest.mark.parametrize("flow", FLOWS)
def test_a_flow_is_the_masks_by_hand(flow: str, engine: str, asked: Asked) -> None:
    wanted = asked.by_hand(asked.kept(flow))
    with intervene(asked.model, flow, asked.layout, engine=engine):
        assert apart(wanted, asked.last()) <= 1e-5
    moved = apart(asked.last(), wanted)
    assert moved <= 1e-6 if flow == "sham" else moved > 1e-4


@pytest.mark.parametrize("flow", FLOWS)
def test_edges_are_counted_one_by_one(flow: str, asked: Asked) -> None:
    resolved = Flow.load(flow).bind(3).resolve(asked.layout)
    wanted = (sum(int(mask.sum()) for mask in asked.kept(flow)), sum(int(own.sum()) for own in asked.own))
    assert edges_of(asked.model, asked.inputs, [resolved]) == [wanted]


def test_a_sweep_is_one_forward_each(asked: Asked) -> None:
    result = sweep(asked.model, asked.inputs, asked.layout, ["cross_frame", "video:question"], window=1)
    for place, knockout in enumerate(("cross_frame", "video:question")):
        for layer in (1, 2, 3):
            alone = asked.by_hand(asked.kept(f"{knockout}@{layer}")).softmax(-1)[result.answer]
            assert float(result.probabilities[place, layer - 1]) == pytest.approx(float(alone), rel=1e-4)


def test_the_ledger_counts_the_reference(asked: Asked) -> None:
    counted = [ledger(asked.model, "video:last", asked.layout, engine) for engine in ("dense", "sparse")]
    assert counted[0].flops == counted[1].flops


def test_a_causal_model_does_not(tmp_path: Path) -> None:
    model, _ = tiny("qwen2_5_vl", layers=2)
    assert not reads_both_ways(model)


def test_text_that_reads_later_text_is_refused(asked: Asked) -> None:
    """Only visual tokens may."""
    everything = torch.ones(1, 1, len(asked.blocks), len(asked.blocks), dtype=torch.bool)
    decoder = find_decoder(asked.model)
    kinds = getattr(decoder.config, "layer_types", None)
    mask: Any = dict.fromkeys(kinds, everything) if kinds else everything
    handle = decoder.register_forward_pre_hook(
        lambda module, args, kwargs: (args, {**kwargs, "attention_mask": mask}), with_kwargs=True
    )
    try:
        with (
            pytest.raises(UnsupportedModelError, match="lets tokens read later ones"),
            intervene(asked.model, "video:last", asked.layout),
        ):
            asked.last()
    finally:
        handle.remove()


@pytest.mark.parametrize("pad", [(3, 0), (3, 0, 5)])
def test_the_edges_of_each_prompt_of_a_batch_are_counted_on_its_own_mask(
    pad: tuple[int, ...], asked: Asked
) -> None:
    """Behind padding of its own each has as many as alone."""
    batch: dict[str, Tensor] = {}
    for name, tensor in asked.inputs.items():
        rows = [tensor] * len(pad)
        if tensor.shape[:2] == asked.inputs["input_ids"].shape:
            rows = [torch.nn.functional.pad(tensor, (each, max(pad) - each)) for each in pad]
        batch[name] = torch.cat(rows)
    resolved = Flow.load("video:question").bind(3).resolve(asked.layout)
    flows = [resolved, None, resolved][: len(pad)]
    alone = [edges_of(asked.model, asked.inputs, [flow])[0] for flow in flows]
    assert edges_of(asked.model, batch, flows) == alone


def test_prompts_of_words_alone_have_the_causal_triangle(asked: Asked) -> None:
    ids = torch.randint(20, 60, (3, 9), generator=torch.Generator().manual_seed(0))
    words = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    assert edges_of(asked.model, words, [None] * 3) == [(3 * 45, 3 * 45)] * 3
