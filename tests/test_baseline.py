"""Arms that go on from a baseline: the same logits and tokens as the reference, from fewer layers and rows."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from transformers import DynamicCache

from lmms_flow.engine import Baseline, decoder_layers, find_decoder, intervene
from lmms_flow.engine.baseline import branch_of
from lmms_flow.engine.departure import departure
from lmms_flow.engine.hooks import Hook
from lmms_flow.flow import Flow, FlowError
from tests.support.engines import RUNS, TOLERANCE, arms, difference, generate, record
from tests.support.layouts import random_layout
from tests.support.models import DEVICE, text_prompt, tiny


@pytest.mark.parametrize(("family", "attention"), RUNS)
def test_an_arm_off_a_baseline_equals_the_reference(family: str, attention: str) -> None:
    model, make_inputs = tiny(family, attn_implementation=attention)
    prompt = make_inputs(frames=4, system=2, tail=3)
    baseline = record(model, prompt.tensors, prompt.layout, arms())
    worst, compared = 0.0, 0
    for flow in arms():
        try:
            with intervene(model, flow, prompt.layout, engine="dense"):
                dense = generate(model, prompt.tensors)
        except FlowError:  # the family's window hides what the flow left to a row
            continue
        with intervene(model, flow, prompt.layout, baseline=baseline):
            sparse = generate(model, prompt.tensors)
        worst = max(worst, *(difference(a, b) for a, b in zip(dense.logits, sparse.logits, strict=True)))
        assert worst < TOLERANCE, f"{flow.text}: {worst:.1e}"
        assert torch.equal(dense.sequences, sparse.sequences), flow.text
        compared += 1
    assert compared > 8, "the family's window hides nearly everything"
    print(f"{family}, {attention}: largest relative difference {worst:.1e}")


def test_random_layouts() -> None:
    model, _ = tiny("llama", attn_implementation="sdpa")
    compared = 0
    for seed in range(15):
        layout = random_layout(seed)
        tensors = text_prompt(layout, seed)
        fitting = []
        for flow in arms():
            try:
                flow.bind(4).resolve(layout)
            except ValueError:
                continue  # a layout without frames, without options, or with too few pairs to draw from
            fitting.append(flow)
        baseline = record(model, tensors, layout, fitting)
        for flow in fitting:
            with intervene(model, flow, layout, engine="dense"):
                dense = generate(model, tensors)
            with intervene(model, flow, layout, baseline=baseline):
                sparse = generate(model, tensors)
            compared += 1
            for a, b in zip(dense.logits, sparse.logits, strict=True):
                assert difference(a, b) < TOLERANCE, (seed, flow.text)
    assert compared > 75


def rows_computed(model: Any, run: Any) -> list[int]:
    """How many rows each decoder layer computed in the prefill; a hook that is not the engine's would keep all rows."""
    seen: Counter[int] = Counter()

    def count(number: int) -> Any:
        def hook(layer: Any, args: Any, kwargs: Any, output: Any) -> None:
            states = output[0] if isinstance(output, tuple) else output
            seen[number] += states.shape[1]

        return hook

    layers = decoder_layers(find_decoder(model))
    handles = [
        layer.register_forward_hook(Hook(count(n)), with_kwargs=True) for n, layer in enumerate(layers)
    ]
    run()
    for handle in handles:
        handle.remove()
    return [seen[n] for n in range(len(layers))]


def test_what_the_baseline_has_is_not_computed_again() -> None:
    """Cut in the second half: the first half is the baseline's. Cut for the last token: only its row is new."""
    model, make_inputs = tiny("llama", attn_implementation="sdpa")
    prompt = make_inputs(frames=4)
    total = prompt.num_tokens
    second_half, last = Flow.load("cross_frame@second_half"), Flow.load("video:last@2-")
    baseline = record(model, prompt.tensors, prompt.layout, [second_half, last])

    def under(flow: Flow) -> list[int]:
        def run() -> None:
            with intervene(model, flow, prompt.layout, baseline=baseline):
                generate(model, prompt.tensors, new=1)

        with intervene(model, flow, prompt.layout):
            pass  # the model is tried on a made-up prompt, once
        return rows_computed(model, run)

    behind_first_frame = total - prompt.frames[1].start
    assert under(second_half)[:3] == [total, 1, behind_first_frame]
    assert under(last) == [total, 1, 1, 1]


def test_where_a_flow_departs() -> None:
    _, make_inputs = tiny("llama")
    prompt = make_inputs(frames=4)

    def of(text: str) -> Any:
        return departure(Flow.load(text).bind(8).resolve(prompt.layout))

    leaves = of("cross_frame@second_half")
    assert (leaves.layer, leaves.row) == (5, prompt.frames[1].start)
    leaves = of("video:question@3-4+video:last")
    assert (leaves.layer, leaves.row) == (1, prompt.groups["question"].start)
    leaves = of("random:0.2")
    assert (leaves.layer, leaves.row) == (1, prompt.groups["video"].start)
    leaves = of("question:options@2")  # what lies above the diagonal was never there
    assert (leaves.layer, leaves.row) == (2, prompt.layout.groups["options"][0].start)
    assert of("sham") is None
    assert of("none") is None


@pytest.mark.parametrize("other", [{"system": 9}, {"seed": 1}])
def test_a_baseline_of_another_prompt_is_not_used(other: dict[str, int]) -> None:
    """Neither of another length nor of other words."""
    model, make_inputs = tiny("llama", attn_implementation="sdpa")
    flow = Flow.load("video:last@3-")
    wrong, prompt = make_inputs(frames=4, **other), make_inputs(frames=4)
    baseline = record(model, wrong.tensors, wrong.layout, [flow])
    with intervene(model, flow, prompt.layout, engine="dense"):
        dense = generate(model, prompt.tensors)
    with intervene(model, flow, prompt.layout, baseline=baseline):
        sparse = generate(model, prompt.tensors)
    assert len(dense.logits) == 4
    for a, b in zip(dense.logits, sparse.logits, strict=True):
        assert difference(a, b) < TOLERANCE


def test_a_baseline_of_other_positions_is_not_used() -> None:
    """The same tokens, told to stand elsewhere."""
    model, make_inputs = tiny("llama", attn_implementation="sdpa")
    prompt = make_inputs(frames=4)
    apart = {"position_ids": 3 * torch.arange(prompt.num_tokens, device=DEVICE)[None]}
    flow = Flow.load("video:last@3-")
    baseline = record(model, prompt.tensors, prompt.layout, [flow])
    last = []
    for engine, given in (("dense", None), ("sparse", baseline)):
        with intervene(model, flow, prompt.layout, engine=engine, baseline=given), torch.no_grad():
            cache = DynamicCache()
            out = model(**prompt.tensors, **apart, past_key_values=cache, logits_to_keep=1)
            last.append(out.logits[:, -1])
    assert difference(*last) < TOLERANCE


def test_sham_leaves_no_baseline_it_takes_the_masked_path_everywhere() -> None:
    layout = random_layout(2, empty=False)
    assert departure(Flow.load("sham").bind(8).resolve(layout)) is None
    assert not Baseline.for_flows([Flow.load("sham").bind(8).resolve(layout)]).layers


def test_a_branch_is_taken_where_it_saves_rows_or_layers() -> None:
    """Off a baseline that has what enters the first layer of its own, and no other."""
    model, make_inputs = tiny("llama", attn_implementation="sdpa")
    prompt = make_inputs(frames=4)
    last = prompt.num_tokens - 1
    baseline = record(model, prompt.tensors, prompt.layout, [Flow.load("question:last@3-")])

    def branch(*flows: str) -> tuple[int, int] | None:
        resolved = [Flow.load(text).bind(4).resolve(prompt.layout) for text in flows]
        found = branch_of(baseline, resolved, 1, find_decoder(model))
        return None if found is None else (found.layer, found.row)

    assert branch("video:last@1") == (2, last)
    assert branch("question:last@3-") == (3, last)
    assert branch("question:last@4") is None, "what enters layer 4 was not recorded"
    assert branch("sham") is None
    assert branch("video:last@1", "video:last@1") is None, "a baseline is of one prompt"
