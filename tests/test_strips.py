"""A layer's mask in strips is that mask, row by row; and the model's attention goes back to what it was."""

from __future__ import annotations

import gc
import random
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.nn.attention.bias import CausalBias
from torch.nn.functional import scaled_dot_product_attention

from lmms_flow.engine import RowPlan, intervene, keep_masks
from lmms_flow.engine import prefill as prefill_module
from lmms_flow.engine import strips as strips_module
from lmms_flow.engine.strips import Strips, strip_attention
from lmms_flow.flow import PRESETS, Flow, FlowError
from lmms_flow.flow.layout import merge
from tests.support.engines import TOLERANCE, difference, record, run, uneven_flows
from tests.support.layouts import random_layout
from tests.support.models import DEVICE, text_prompt, tiny


def layers(seeds: range) -> Iterator[tuple[Strips, torch.Tensor]]:
    """Strips of layers with and without dropped rows, and the reference mask [row, key] of their live rows."""
    for seed in seeds:
        layout = random_layout(seed)
        for flow in uneven_flows():
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


def test_the_mask_that_a_gpu_is_given() -> None:
    """Made from segments on the device: the reference's, row by row, also where the first rows have no query."""
    for number, (strips, mask) in enumerate(layers(range(40))):
        strips = replace(strips, skipped=number % len(mask))
        added = strips_module.dense_mask(strips, torch.device("cpu"), torch.float32)
        kept = mask[strips.skipped :]
        assert torch.equal(added[0, 0], torch.zeros(kept.shape).masked_fill(~kept, -torch.inf))
        assert added.stride(-2) % 8 == 0, "CUDA's kernels would copy it"
    assert number > 500


@pytest.mark.parametrize(
    "family", ["llama", "qwen2", "llava_next_video", "qwen2_5_vl", "qwen3_vl", "internvl"]
)
def test_under_masks_as_a_gpu_runs_it(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prefill, decoding and arms off a baseline, where one masked kernel takes the place of several strips."""
    masked = []

    def as_on_a_gpu(strips: Strips, device: torch.device) -> str:
        kernel = strips_module.kernel_of(strips, torch.device("cuda"))
        masked.append(kernel == "masked")
        return kernel

    monkeypatch.setattr(prefill_module, "kernel_of", as_on_a_gpu)
    model, make_inputs = tiny(family, attn_implementation="sdpa")
    prompt = make_inputs(frames=4)
    for flow in uneven_flows():
        wanted = run(model, prompt.tensors, flow, prompt.layout, "dense", new=4)
        found = run(model, prompt.tensors, flow, prompt.layout, "sparse", new=4)
        assert difference(wanted[0], found[0]) < TOLERANCE, flow.text
        assert torch.equal(wanted[1].sequences, found[1].sequences), flow.text
        baseline = record(model, prompt.tensors, prompt.layout, [flow])
        with intervene(model, flow, prompt.layout, baseline=baseline), torch.no_grad():
            branch = model(**prompt.tensors, logits_to_keep=1, use_cache=True).logits[:, -1]
        assert difference(wanted[0], branch) < TOLERANCE, flow.text
    assert sum(masked) > len(uneven_flows()), "hardly a mask was made: nothing was tested"


def test_the_triangle_that_a_gpu_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    """On CUDA it is a shape and no tensor; the CPU draws it, which shows that it is the same one."""
    on_cpu = strips_module._calls
    masks = []

    def calls(strip: strips_module.Strip, device: torch.device) -> Iterator[Any]:
        for part, num_keys, mask in on_cpu(strip, torch.device("cuda")):
            masks.append(mask)
            yield part, num_keys, mask

    monkeypatch.setattr(strips_module, "_calls", calls)
    for number, (strips, mask) in enumerate(layers(range(10))):
        strips = replace(strips, skipped=number % len(mask))
        shape = len(mask) - strips.skipped, len(mask)
        torch.testing.assert_close(
            attended(strips, *shape), attended(mask[strips.skipped :], *shape), rtol=0, atol=1e-5
        )
    biases = [mask for mask in masks if mask is not None]
    assert len(biases) > 50
    assert all(isinstance(bias, CausalBias) and bias.untyped_storage().nbytes() <= 8 for bias in biases)


def test_a_mask_grows_with_the_prompt_and_not_with_its_square() -> None:
    """A strip of 19,000 rows on a CPU: each call's mask is that of its rows, and all are parts of a few MiB."""
    covered: list[int] = []
    strip = strips_module.Strip(range(1000, 20_000), (range(700),), reads_itself=True)
    for part, num_keys, mask in strips_module._calls(strip, torch.device("cpu")):
        assert mask is not None
        assert num_keys == 700 + part.stop
        last = torch.ones(len(part), len(part), dtype=torch.bool).tril()
        assert mask[0, 0, :, : -len(part)].all()
        assert torch.equal(mask[0, 0, :, -len(part) :], last)
        assert mask.shape == (1, 1, len(part), num_keys)
        assert mask.untyped_storage().nbytes() <= strips_module.CHUNK_ROWS * 2**15
        covered += part
    assert covered == list(range(19_000))


def held_masks() -> int:
    """The bytes of all boolean tensors that are alive."""
    gc.collect()
    tensors = [each for each in gc.get_objects() if type(each) is torch.Tensor and each.dtype == torch.bool]
    return sum({each.data_ptr(): each.untyped_storage().nbytes() for each in tensors}.values())


@pytest.mark.skipif(DEVICE != "cpu", reason="strips are a CPU's")
@pytest.mark.parametrize("name", ["effective-llava-next-7b", "effective-llava-next-7b-closed"])
def test_the_masks_held_for_the_papers_prompt(name: str) -> None:
    """At most 4 MiB behind a prefill of 32 layers and a decoded token; the dense masks of these layers took 8."""
    layout = PRESETS[0].layout()
    tensors = text_prompt(layout)
    model, _ = tiny("llama", layers=32, attn_implementation="sdpa")
    strips_module._staircase.cache_clear()
    before = held_masks()
    with intervene(model, name, layout), torch.inference_mode():
        model.generate(**tensors, max_new_tokens=2, do_sample=False)
        held = held_masks() - before
    assert held <= 4 * 2**20, f"{held / 2**20:.1f} MiB"
    assert strips_module._staircase.cache_info().currsize, "no masked strip: nothing was tested"


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


def test_bits_of_the_segments_that_enter_stand_side_by_side() -> None:
    """And none of a segment that has left, wherever it stands."""
    rng = random.Random(0)
    for _ in range(200):
        bits, order = rng.getrandbits(24), sorted(rng.sample(range(24), rng.randint(1, 24)))
        runs = merge(range(s, s + 1) for s in order)
        wanted = sum((bits >> s & 1) << place for place, s in enumerate(order))
        assert strips_module._gather(bits, runs) == wanted
