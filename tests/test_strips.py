"""A layer's mask in strips is that mask, row by row; and the model's attention goes back to what it was."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from lmms_flow.engine import RowPlan, intervene, keep_masks
from lmms_flow.engine import strips as strips_module
from lmms_flow.engine.strips import Strips, strip_attention
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


def layers(seeds: range) -> Iterator[tuple[Strips, torch.Tensor]]:
    """Strips of layers with and without dropped rows, and the reference mask [row, key] of their live rows."""
    for seed in seeds:
        layout = random_layout(seed)
        for flow in flows():
            try:
                plan = RowPlan(flow.bind(4).resolve(layout), undropped=1)
            except FlowError:
                continue
            masks = keep_masks(flow, layout, 4)
            for layer in range(1, 5):
                rows = list(plan.rows(layer))
                yield plan.strips(layer), masks[layer - 1][rows][:, rows]


def drawn_out(strips: Strips, count: int) -> torch.Tensor:
    """The mask [row, key] that the strips of the query rows stand for."""
    mask = torch.zeros(count, count, dtype=torch.bool)
    for strip in strips.of_queries:
        for keys in strip.before:
            mask[strip.rows.start : strip.rows.stop, keys.start : keys.stop] = True
        if strip.reads_itself:
            size = len(strip.rows)
            own = slice(strip.rows.start, strip.rows.stop)
            mask[own, own] = torch.ones(size, size, dtype=torch.bool).tril()
    return mask[strips.skipped :]


def attended(strips: Strips | torch.Tensor, num_rows: int, num_keys: int) -> torch.Tensor:
    """Attention of two heads over made-up states; [batch, row, head, width]."""
    random = torch.Generator().manual_seed(0)
    key, value = (torch.randn(2, 2, num_keys, 8, generator=random) for _ in range(2))
    query = torch.randn(2, 2, num_keys, 8, generator=random)[:, :, num_keys - num_rows :]
    if isinstance(strips, torch.Tensor):
        return scaled_dot_product_attention(query, key, value, attn_mask=strips).transpose(1, 2)
    return strip_attention(torch.nn.Module(), query, key, value, strips)[0]


def test_strips_are_the_mask_on_random_layouts() -> None:
    checked = 0
    for strips, mask in layers(range(80)):
        assert torch.equal(drawn_out(strips, len(mask)), mask)
        assert [row for strip in strips.strips for row in strip.rows] == list(range(len(mask)))
        assert strips.blocks.num_edges() == mask.sum()
        checked += 1
    assert checked > 1000


@pytest.mark.parametrize("chunk", [1, 3, 256])
def test_attention_by_strips_is_masked_attention(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where only the last rows have a query, and where a strip takes several masked calls."""
    monkeypatch.setattr(strips_module, "CHUNK_ROWS", chunk)
    strips_module._staircase.cache_clear()
    worst, behind = 0.0, 0
    for number, (strips, mask) in enumerate(layers(range(20))):
        skipped = number % len(mask)
        strips = replace(strips, skipped=skipped)
        assert torch.equal(drawn_out(strips, len(mask)), mask[skipped:])
        num_rows = len(mask) - skipped
        expected = attended(mask[skipped:], num_rows, len(mask))
        worst = max(worst, float((attended(strips, num_rows, len(mask)) - expected).abs().max()))
        behind += any(strip.rows.start < skipped < strip.rows.stop for strip in strips.strips)
    strips_module._staircase.cache_clear()
    assert worst < 1e-5
    assert behind > 50, "rows were hardly ever skipped inside a strip: nothing was tested"


def test_a_plain_causal_layer_needs_its_mask_where_rows_are_skipped() -> None:
    """transformers' SDPA would read the first keys only: it aligns a causal triangle to the upper left."""
    layout = random_layout(0)
    plan = RowPlan(Flow.load("video:last@4").bind(4).resolve(layout), undropped=1)
    strips = plan.strips(1)
    assert strips.is_causal
    assert not replace(strips, skipped=1).is_causal


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
