"""A layer's mask in blocks, for long prompts: that of the dense mask, made without one; and what is held of masks."""

from __future__ import annotations

import json
import math
import random
import re
import shutil
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, create_mask
from torch.nn.functional import scaled_dot_product_attention
from torch.utils._python_dispatch import TorchDispatchMode
from transformers.integrations.flex_attention import flex_attention_forward

from lmms_flow.engine import RowPlan, flex, intervene, keep_masks
from lmms_flow.engine import strips as strips_module
from lmms_flow.engine.flex import block_mask, kept_pairs
from lmms_flow.engine.strips import Strips, attend_in_strips, kernel_of
from lmms_flow.flow import Blocks, Flow
from lmms_flow.flow.layout import prompt_layout
from lmms_flow.flow.presets import PRESET_NAMES, find_preset
from tests.support.engines import LATE, TOLERANCE, difference, flows, record, run
from tests.support.models import DEVICE, tiny

ROOT = Path(__file__).parents[1]
CPU = torch.device("cpu")
ON_CPU = pytest.mark.skipif(DEVICE != "cpu", reason="a GPU's kernels take blocks of 128 alone")
WAYS = ("masked", "strips", "flex")  # the columns of the table in the docs
LISTS = tuple(
    f"{full}{side}_{what}"
    for full in ("", "full_")
    for side in ["kv", "q"]
    for what in ("num_blocks", "indices")
)


@pytest.fixture(autouse=True)
def _fresh_masks() -> Iterator[None]:
    block_mask.cache_clear()
    yield
    block_mask.cache_clear()


@pytest.fixture
def _uncompiled() -> Iterator[None]:
    """FlexAttention as plain operations: as exact, and there in no time."""
    with torch.compiler.set_stance("force_eager"):
        yield


def random_blocks(seed: int, longest: int) -> Blocks:
    """Segments of any length that read any earlier ones, and themselves or not."""
    rng = random.Random(seed)
    segments, kept, end = [], [], 0
    for t in range(rng.randint(1, 9)):
        segments.append(range(end, end + rng.randint(1, longest)))
        end = segments[-1].stop
        kept.append(rng.getrandbits(t + 1) or 1 << rng.randint(0, t))
    return Blocks(tuple(segments), tuple(kept))


def dense(blocks: Blocks, skipped: int = 0) -> torch.Tensor:
    """What blocks stand for, bool [row, key], pair by pair."""
    num_keys = blocks.segments[-1].stop
    mask = torch.zeros(num_keys, num_keys, dtype=torch.bool)
    for t, rows in enumerate(blocks.segments):
        for s, keys in enumerate(blocks.segments):
            mask[rows.start : rows.stop, keys.start : keys.stop] = blocks.reads(t, s)
    return mask.tril()[skipped:]


def expected(mask: torch.Tensor, size: int) -> BlockMask:
    rows, keys = mask.shape
    return create_block_mask(
        lambda b, h, q, k: mask[q, k], None, None, rows, keys, device="cpu", BLOCK_SIZE=size
    )


def assert_same(found: BlockMask, mask: torch.Tensor, size: int) -> None:
    """The same blocks as those of the dense mask, and the same pairs inside them."""
    wanted = expected(mask, size)
    assert found.seq_lengths == wanted.seq_lengths
    assert found.BLOCK_SIZE == wanted.BLOCK_SIZE
    for name in LISTS:
        assert torch.equal(getattr(found, name), getattr(wanted, name)), name
    rows, keys = mask.shape
    assert torch.equal(create_mask(found.mask_mod, 1, 1, rows, keys, device="cpu")[0, 0], mask)


@pytest.mark.parametrize("size", [4, 16, 128])
def test_blocks_are_those_of_the_dense_mask(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """At any borders, any cuts, and any first row; blocks of 4 tokens see more of both kinds than blocks of 128."""
    monkeypatch.setattr(flex, "BLOCK", size)
    full = partial = 0
    for seed in range(120 if size < 128 else 20):
        blocks = random_blocks(seed, 3 * size)
        mask = dense(blocks)
        skipped = random.Random(seed).randrange(len(mask)) if seed % 2 else 0
        found = block_mask(blocks, skipped, CPU)
        assert_same(found, mask[skipped:], size)
        assert kept_pairs(blocks, skipped).sum() == mask[skipped:].sum()
        assert found.full_kv_num_blocks is not None
        full, partial = full + int(found.full_kv_num_blocks.sum()), partial + int(found.kv_num_blocks.sum())
    assert full > 50
    assert partial > 50


@pytest.mark.usefixtures("_uncompiled")
@pytest.mark.parametrize("name", PRESET_NAMES)
def test_the_presets_layers(name: str) -> None:
    """All layers of all pathways on usual prompts, dropped rows included: their blocks and their attention."""
    found = find_preset(name)
    assert found is not None
    preset = found[0]
    plan = RowPlan(Flow.load(name).bind(preset.layers).resolve(preset.layout()), undropped=1)
    masks = keep_masks(name, preset.layout(), preset.layers)
    seen: set[Strips] = set()
    for layer in range(1, preset.layers + 1):
        if (strips := plan.strips(layer)) not in seen:
            seen.add(strips)
            rows = torch.tensor(plan.rows(layer))
            mask = masks[layer - 1][rows][:, rows]
            assert_same(block_mask(strips.blocks, 0, CPU), mask, 128)
            for attend in (by_flex, attend_in_strips):
                assert largest_difference(attend, strips, mask) < 1e-5
    assert len(seen) > 1


def by_flex(module: Any, query: Any, key: Any, value: Any, strips: Strips) -> torch.Tensor:
    mask = block_mask(strips.blocks, strips.skipped, query.device)
    return flex_attention_forward(module, query, key, value, mask)[0]


def largest_difference(attend: Any, strips: Strips, mask: torch.Tensor) -> float:
    """From masked SDPA, where two query heads share one of keys."""
    module: Any = torch.nn.Module().eval()
    module.num_key_value_groups = 2
    numbers = torch.Generator().manual_seed(0)
    query, key, value = (
        torch.randn(2, heads, rows, 16, generator=numbers).to(DEVICE)
        for heads, rows in zip((4, 2, 2), (len(mask), *mask.shape[1:] * 2), strict=True)
    )
    wanted = scaled_dot_product_attention(query, key, value, attn_mask=mask.to(DEVICE), enable_gqa=True)
    return float((attend(module, query, key, value, strips).transpose(1, 2) - wanted).abs().max())


@pytest.mark.usefixtures("_uncompiled")
def test_attention_equals_masked_attention() -> None:
    """At any cuts, and where the first rows have no query."""
    for seed in range(40):
        blocks = random_blocks(seed, 60)
        skipped = seed % 3 * blocks.segments[-1].stop // 4
        found = largest_difference(by_flex, Strips((), blocks, skipped), dense(blocks, skipped))
        assert found < 1e-5, (seed, found)


@pytest.mark.skipif(shutil.which("g++") is None, reason="FlexAttention is compiled with g++ on a CPU")
def test_the_compiled_kernel_equals_masked_attention() -> None:
    """It takes the lists of blocks at their word: a pair in a block left out is not read, one in a full block is."""
    segments = tuple(range(a, b) for a, b in ((0, 60), (60, 500), (500, 513), (513, 700)))
    blocks = Blocks(segments, (0b1, 0b11, 0b001, 0b1010))  # the third and the fourth skip segments
    strips = Strips((), blocks, skipped=70)
    full = block_mask(blocks, 70, CPU).full_kv_num_blocks
    assert full is not None
    assert full.sum() > 0
    assert largest_difference(by_flex, strips, dense(blocks, 70)) < 1e-5


@pytest.mark.parametrize("wrong", ["nan", "numbers"])
def test_a_kernel_that_is_wrong_is_found_out(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its first layer is compared with plain attention; strips answer then, and from there on without a second try."""
    monkeypatch.setattr(strips_module, "FLEX_FROM", {DEVICE: 0})
    monkeypatch.setattr(strips_module, "_PROVED", {})
    calls = []

    def lies(*args: Any, **kwargs: Any) -> tuple[torch.Tensor, None]:
        out = flex_attention_forward(*args, **kwargs)[0].clone()
        out[:, 3, 1] = math.nan if wrong == "nan" else out[:, 3, 1] + out.abs().max() / 10
        calls.append(1)
        return out, None

    monkeypatch.setattr(strips_module, "flex_attention_forward", lies)
    model, make_inputs = tiny("llama", attn_implementation="sdpa")
    prompt = make_inputs(frames=4)
    flow = Flow.load("cross_frame@2-+last:last")
    dense = run(model, prompt.tensors, flow, prompt.layout, "dense", new=3)
    with pytest.warns(UserWarning, match=f"FlexAttention differs from plain attention on {DEVICE}"):
        found = run(model, prompt.tensors, flow, prompt.layout, "sparse", new=3)
    assert difference(dense[0], found[0]) < TOLERANCE
    assert torch.equal(dense[1].sequences, found[1].sequences)
    assert calls == [1]


@pytest.mark.parametrize("size", [pytest.param(4, marks=ON_CPU), 128])
def test_a_model_on_flex_attention_equals_the_reference(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tiny Llama under every kind of flow: logits of a prefill and of generated tokens, and off a baseline."""
    monkeypatch.setattr(flex, "BLOCK", size)
    monkeypatch.setattr(strips_module, "FLEX_FROM", {DEVICE: 0})
    calls = []
    monkeypatch.setattr(
        strips_module,
        "flex_attention_forward",
        lambda *args, **kw: calls.append(1) or flex_attention_forward(*args, **kw),
    )
    model, make_inputs = tiny("llama", attn_implementation="sdpa")
    prompt = make_inputs(frames=4)
    chosen = [*flows(), *map(Flow.load, LATE)]
    baseline = record(model, prompt.tensors, prompt.layout, chosen)
    worst = 0.0
    for flow in chosen:
        dense = run(model, prompt.tensors, flow, prompt.layout, "dense", new=3)
        for shared in (None, baseline):
            with intervene(model, flow, prompt.layout, baseline=shared), torch.no_grad():
                found = model.generate(
                    **prompt.tensors,
                    max_new_tokens=3,
                    do_sample=False,
                    return_dict_in_generate=True,
                    output_logits=True,
                )
            assert torch.equal(found.sequences, dense[1].sequences)
            worst = max(
                worst, *(difference(a, b) for a, b in zip(dense[1].logits, found.logits, strict=True))
            )
    assert worst < TOLERANCE, worst
    assert len(calls) > 30, "FlexAttention was hardly ever called: nothing was tested"


class Largest(TorchDispatchMode):
    """Notes the size of the largest tensor that is made inside the block, in bytes."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for each in out if isinstance(out, tuple | list) else (out,):
            if isinstance(each, torch.Tensor):
                self.bytes = max(self.bytes, each.untyped_storage().nbytes())
        return out


@pytest.mark.parametrize("name", ["effective-llava-next-7b", "effective-llava-next-7b-closed"])
def test_no_tensor_of_all_pairs_is_made(name: str) -> None:
    """65,536 tokens have 4.3e9 pairs and 262,144 blocks: what is made is of the order of the blocks."""
    text = 65_536 - 454 * 144
    layout = prompt_layout(system=53, frames=454, tokens_per_frame=144, gap=3, question=text - 72, tail=15)
    assert layout.num_tokens == 65_536
    plan = RowPlan(Flow.load(name).bind(32).resolve(layout), undropped=1)
    for layer in (1, 12, 18, 23):
        blocks = plan.strips(layer).blocks
        num_blocks = -(-blocks.segments[-1].stop // 128)
        tracemalloc.start()
        with Largest() as largest:
            mask = block_mask(blocks, 0, CPU)
        peak = tracemalloc.get_traced_memory()[1]  # of NumPy's arrays
        tracemalloc.stop()
        assert largest.bytes <= 16 * 512**2
        assert peak < 64 * 2**20, f"{peak / 2**20:.0f} MiB"
        assert mask.kv_indices.shape == (1, 1, num_blocks, num_blocks)
        assert kept_pairs(blocks).sum(dtype=float) == blocks.num_edges()


def long_strips(frames: int, layer: int) -> Strips:
    """A layer of a four-layer model that is cut in layers 2 and 3 only."""
    layout = prompt_layout(system=53, frames=frames, tokens_per_frame=144, gap=3, question=40, tail=15)
    return RowPlan(Flow.load("cross_frame@2-3").bind(4).resolve(layout), undropped=1).strips(layer)


def test_which_kernel_a_layer_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """FlexAttention for long ones that are cut, on a GPU with a compiler; strips on a CPU, a mask on a GPU."""
    cuda = torch.device("cuda")
    monkeypatch.setattr(strips_module, "find_spec", lambda name: name)
    assert kernel_of(long_strips(150, layer=2), cuda) == "flex"
    assert kernel_of(long_strips(150, layer=2), CPU) == "strips"
    assert kernel_of(long_strips(8, layer=2), cuda) == "masked"
    assert kernel_of(long_strips(150, layer=1), cuda) == "causal", "one kernel without a mask"
    assert kernel_of(replace(long_strips(150, layer=1), skipped=9), cuda) == "strips", "one strip, one kernel"
    monkeypatch.setattr(strips_module, "find_spec", lambda name: None)
    assert kernel_of(long_strips(150, layer=2), cuda) == "strips", "a mask would fill the memory"


def test_the_docs_give_the_benchmarks_figures() -> None:
    """Each row of the table of long prompts: a shape, tokens, and released / closed by each way."""
    figures = json.loads((ROOT / "benchmarks/results/long.json").read_text())["figures"]
    section = (ROOT / "docs/engine.md").read_text().partition("## Long prompts")[2].partition("\n## ")[0]
    printed = {}
    for shape, tokens, cells in re.findall(r"^\| (\w+) \| ([\d,]+) \| (.*) \|$", section, re.MULTILINE):
        for way, pair in zip(WAYS, cells.split(" | "), strict=True):
            for closed, ratio in zip(("", "-closed"), pair.split(" / "), strict=True):
                flow = "effective-llava-next-7b" + closed
                printed[shape, int(tokens.replace(",", "")), flow, way] = float(ratio)
    measured = {
        (one["shape"], one["tokens"], one["flow"], way): one["times faster"][way]
        for one in figures
        for way in WAYS
    }
    assert printed == pytest.approx(measured, rel=0.01)
