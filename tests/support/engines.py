"""Flows of every kind, and what is generated under them: by the reference, a faster engine, or off a baseline."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from lmms_flow.engine import Baseline, decoder_layers, find_decoder, intervene
from lmms_flow.flow import Flow, LayerRange, Pathway
from tests.support.models import FAMILIES

TOLERANCE = 1e-5  # relative to the largest magnitude, fp32
EAGER_ONLY = ("gemma2",)
RUNS = [(name, attn) for name in FAMILIES for attn in ("eager", "sdpa") if (name, attn) != ("gemma2", "sdpa")]
LATE = ("cross_frame@second_half", "video:last@3-", "question:last@4", "video:question@2-+last:last@4")
UNEVEN = (
    "cross_frame@2-",
    "video:question+stem:last",
    "blind",
    "video:last+last:last",
    "frame.1:question+options:tail",
)


def flows(closed_too: bool = True) -> Iterator[Flow]:
    """Pathways of both forms for four layers, cuts of every kind, and the controls."""
    for closed in (False, True) if closed_too else (False,):
        kept = Pathway(LayerRange("2"), LayerRange("1-2"), LayerRange("3"), closed)
        yield Flow("pathway", f"pathway, closed={closed}", "pathway", pathways=(kept,))
    for text in (
        "blind",
        "sham",
        "random:0.2:seed1",
        "cross_frame@1-2",
        "video:last+last:last",
        "video:question+video:last@2-+video:tail+video:gap",
        "true_option:last+frame.0:question@2-3+stem:tail",
    ):
        yield Flow.load(text)


def run(
    model: Any, tensors: dict[str, Any], flow: Flow, layouts: Any, engine: str, new: int
) -> tuple[Any, Any]:
    """The last position's logits of a prefill, and a greedy generation, under one engine."""
    with intervene(model, flow, layouts, engine=engine), torch.no_grad():
        prefill = model(**tensors, logits_to_keep=1).logits[:, -1]
        generated = model.generate(
            **tensors, max_new_tokens=new, do_sample=False, return_dict_in_generate=True, output_logits=True
        )
    return prefill, generated


def difference(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).abs().max() / a.abs().max())


def arms() -> list[Flow]:
    """The flows, and those whose first layers are the baseline's."""
    return [*flows(), *map(Flow.load, LATE)]


def generate(model: Any, tensors: dict[str, Any], new: int = 4) -> Any:
    with torch.no_grad():
        return model.generate(
            **tensors, max_new_tokens=new, do_sample=False, return_dict_in_generate=True, output_logits=True
        )


def record(model: Any, tensors: dict[str, Any], layout: Any, chosen: list[Flow]) -> Baseline:
    """The stock model's generation, kept for the chosen arms."""
    depth = len(decoder_layers(find_decoder(model)))
    baseline = Baseline.for_flows([flow.bind(depth).resolve(layout) for flow in chosen])
    with baseline.recording(model):
        generate(model, tensors)
    return baseline


def uneven_flows() -> list[Flow]:
    """Flows whose layers hide different columns of different rows, with and without dropped rows."""
    kept = (LayerRange("2"), LayerRange("1-2"), LayerRange("3"))
    return [
        *map(Flow.load, UNEVEN),
        *(Flow("pathway", "p", "p", pathways=(Pathway(*kept, c),)) for c in (False, True)),
    ]
