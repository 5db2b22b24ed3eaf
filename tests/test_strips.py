"""A layer's mask in strips is that mask, row by row; and the model's attention goes back to what it was."""

from __future__ import annotations

import torch

from lmms_flow.engine import RowPlan, intervene, keep_masks
from lmms_flow.engine.strips import Strips
from lmms_flow.flow import PRESETS, Flow, FlowError, LayerRange, Pathway
from tests.layouts import random_layout
from tests.models import tiny

TEXTS = (
    "cross_frame@2-",
    "video:question+stem:last",
    "blind",
    "video:last+last:last",
    "frame.1:question+options:tail",
)


def flows() -> list[Flow]:
    kept = (LayerRange("2"), LayerRange("1-2"), LayerRange("3"))
    return [
        *map(Flow.load, TEXTS),
        *(Flow("pathway", "p", "p", pathways=(Pathway(*kept, c),)) for c in (False, True)),
    ]


def drawn_out(strips: Strips, count: int) -> torch.Tensor:
    """The mask [row, key] that strips stand for."""
    mask = torch.zeros(count, count, dtype=torch.bool)
    for strip in strips.strips:
        for keys in strip.before:
            mask[strip.rows.start : strip.rows.stop, keys.start : keys.stop] = True
        if strip.reads_itself:
            size = len(strip.rows)
            own = slice(strip.rows.start, strip.rows.stop)
            mask[own, own] = torch.ones(size, size, dtype=torch.bool).tril()
    return mask


def test_strips_are_the_mask_on_random_layouts() -> None:
    checked = 0
    for seed in range(80):
        layout = random_layout(seed)
        for flow in flows():
            try:
                plan = RowPlan(flow.bind(4).resolve(layout), undropped=1)
            except FlowError:
                continue
            masks = keep_masks(flow, layout, 4)
            for layer in range(1, 5):
                rows = list(plan.rows(layer))
                strips = plan.strips(layer)
                assert torch.equal(drawn_out(strips, len(rows)), masks[layer - 1][rows][:, rows])
                assert [row for strip in strips.strips for row in strip.rows] == list(range(len(rows)))
                checked += 1
    assert checked > 1000


def test_the_papers_prompt_takes_few_strips_and_small_masks() -> None:
    """No strip of the 7B pathways needs a mask of more than a frame, or than the text behind the video."""
    layout = PRESETS[0].layout()
    for name in ("effective-llava-next-7b", "effective-llava-next-7b-closed"):
        plan = RowPlan(Flow.load(name).bind(32).resolve(layout), undropped=1)
        for layer in range(1, 33):
            strips = plan.strips(layer).strips
            masks = [
                len(s.rows) * (len(s.rows) + sum(map(len, s.before)))
                for s in strips
                if s.before and s.reads_itself
            ]
            assert len(strips) <= 13
            assert max(masks, default=0) <= 144 * 197 + 62 * 1267


def test_the_attention_implementation_is_put_back() -> None:
    model, make_inputs = tiny("llama", attn_implementation="sdpa")
    prompt = make_inputs()
    with intervene(model, "blind", prompt.layout, engine="sparse"):
        assert model.config._attn_implementation != "sdpa"
    assert model.config._attn_implementation == "sdpa"
    try:
        with intervene(model, "blind", prompt.layout, engine="sparse"):
            raise ZeroDivisionError
    except ZeroDivisionError:
        pass
    assert model.config._attn_implementation == "sdpa"
