"""The sparse engine against the reference: the same logits and tokens, from fewer rows."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from lmms_flow.engine import RowPlan, decoder_layers, find_decoder, intervene
from lmms_flow.engine.hooks import Hook
from lmms_flow.flow import PRESETS, Flow, FlowError, LayerRange, Layout, Pathway
from lmms_flow.flow.presets import Preset
from tests.support.engines import EAGER_ONLY, RUNS, TOLERANCE, difference, flows, run
from tests.support.layouts import random_layout
from tests.support.models import DEVICE, join, text_prompt, tiny

PAPER_PRESETS = [preset for preset in PRESETS if preset.from_paper]
LANGUAGE_MODELS = ("llama", "llama", "phi3", "qwen2")  # of the models of these presets


@pytest.mark.parametrize(("family", "attention"), RUNS)
def test_sparse_equals_dense_in_prefill_and_decoding(family: str, attention: str) -> None:
    model, make_inputs = tiny(family, attn_implementation=attention)
    prompts = [make_inputs(frames=4, system=2 + i, tail=3 + i, seed=i) for i in range(3)]
    asked: list[tuple[Any, Any]] = [(join(prompts), [prompt.layout for prompt in prompts])]
    # Eager attention of the others is asked about a single prompt in tests/test_baseline.py.
    if attention == "sdpa" or family in EAGER_ONLY:
        asked.append((prompts[0].tensors, prompts[0].layout))
    worst, compared = 0.0, 0
    for flow in flows():
        for tensors, layouts in asked:
            try:
                dense = run(model, tensors, flow, layouts, "dense", new=3)
            except FlowError:  # the family's window hides what the flow left to a row
                with pytest.raises(FlowError, match="attention window"):
                    run(model, tensors, flow, layouts, "sparse", new=3)
                continue
            sparse = run(model, tensors, flow, layouts, "sparse", new=3)
            steps = zip((dense[0], *dense[1].logits), (sparse[0], *sparse[1].logits), strict=True)
            worst = max(worst, *(difference(a, b) for a, b in steps))
            assert worst < TOLERANCE, f"{flow.text}: {worst:.1e}"
            assert torch.equal(dense[1].sequences, sparse[1].sequences), flow.text
            compared += 1
    assert compared > 4, "the family's window hides nearly everything"
    print(f"{family}, {attention}: largest relative difference {worst:.1e}")


@pytest.mark.parametrize(
    ("preset", "family"),
    zip(PAPER_PRESETS, LANGUAGE_MODELS, strict=True),
    ids=lambda each: getattr(each, "name", each),
)
def test_the_papers_pathways_and_sixteen_tokens(preset: Preset, family: str) -> None:
    """Each preset at its own depth on its own kind of language model, released and closed; alone and as a batch."""
    model, make_inputs = tiny(family, layers=preset.layers, attn_implementation="sdpa")
    prompts = [make_inputs(frames=4, system=9 + i, tail=3 + i, seed=i) for i in range(2)]
    single, batch = prompts[0], join(prompts)
    worst = 0.0
    for text in (preset.name, f"{preset.name}-closed", f"random:{preset.name}:seed1"):
        flow = Flow.load(text)
        for tensors, layouts in ((single.tensors, single.layout), (batch, [p.layout for p in prompts])):
            dense = run(model, tensors, flow, layouts, "dense", new=16)
            sparse = run(model, tensors, flow, layouts, "sparse", new=16)
            steps = zip((dense[0], *dense[1].logits), (sparse[0], *sparse[1].logits), strict=True)
            worst = max(worst, *(difference(a, b) for a, b in steps))
            assert worst < TOLERANCE, f"{flow.text}: {worst:.1e}"
            assert torch.equal(dense[1].sequences, sparse[1].sequences), flow.text
    print(f"{family}, {preset.name}: largest relative difference {worst:.1e}")


def test_sixteen_tokens_on_random_layouts() -> None:
    model, _ = tiny("llama", attn_implementation="sdpa")
    dropped = 0
    for seed in range(10):
        layout = random_layout(seed, empty=False)
        tensors = text_prompt(layout, seed)
        for flow in flows():
            if flow.kind == "random":
                continue  # small layouts have too few pairs to draw from
            try:
                flow.bind(4).resolve(layout)
            except ValueError:
                continue  # a layout without frames, or without options
            dense = run(model, tensors, flow, layout, "dense", new=16)
            sparse = run(model, tensors, flow, layout, "sparse", new=16)
            assert torch.equal(dense[1].sequences, sparse[1].sequences), (seed, flow.text)
            for a, b in zip(dense[1].logits, sparse[1].logits, strict=True):
                assert difference(a, b) < TOLERANCE, (seed, flow.text)
            lengths = [stored.keys.shape[2] for stored in sparse[1].past_key_values.layers]
            dropped += min(lengths) < max(lengths)
    assert dropped > 20, "rows were hardly ever dropped: nothing was tested"


def test_padded_batches_of_random_layouts() -> None:
    """Samples of a batch lose rows in different layers, and some none: their places must not be mixed up."""
    model, _ = tiny("llama", attn_implementation="sdpa")
    texts = (
        "video:question@3-+video:tail@3-+video:last@3-+video:gap@3-+last:last",
        "blind",
        "video:video@2-+video:last",
    )
    compared = 0
    for seed in range(40):
        layouts = [random_layout(2 * seed + i) for i in range(2)]
        width = max(layout.num_tokens for layout in layouts)
        ids = torch.randint(10, 100, (2, width), generator=torch.Generator().manual_seed(seed))
        mask = torch.stack([torch.arange(width) >= width - layout.num_tokens for layout in layouts]).long()
        tensors = {"input_ids": ids.to(DEVICE), "attention_mask": mask.to(DEVICE)}
        for text in texts:
            try:
                dense = run(model, tensors, Flow.load(text), layouts, "dense", new=2)
            except FlowError:
                continue  # one of the layouts has no video
            sparse = run(model, tensors, Flow.load(text), layouts, "sparse", new=2)
            assert difference(dense[0], sparse[0]) < TOLERANCE, (seed, text)
            assert torch.equal(dense[1].sequences, sparse[1].sequences), (seed, text)
            compared += 1
    a = Layout(
        40, {"system": range(4), "question": range(4, 30), "tail": range(30, 39), "last": range(39, 40)}
    )
    groups = {"system": range(2), "video": range(2, 12), "gap": range(12, 13), "question": range(13, 17)}
    b = Layout(20, groups | {"tail": range(17, 19), "last": range(19, 20)})
    ids = torch.randint(10, 100, (2, 40), generator=torch.Generator().manual_seed(1))
    mask = torch.stack([torch.ones(40), torch.arange(40) >= 20]).long()
    tensors = {"input_ids": ids.to(DEVICE), "attention_mask": mask.to(DEVICE)}
    dense, sparse = (run(model, tensors, Flow.load(texts[0]), [a, b], e, new=2) for e in ("dense", "sparse"))
    assert difference(dense[0], sparse[0]) < TOLERANCE
    assert compared > 40


def test_the_closed_7b_pathway_lets_the_video_go_after_layer_20() -> None:
    layout = PRESETS[0].layout()
    plan = RowPlan(Flow.load("effective-llava-next-7b-closed").bind(32).resolve(layout), undropped=1)
    counts = [len(plan.rows(layer)) for layer in range(1, 33)]
    assert counts[:20] == [1267] * 20  # layer 20 still reads the video's keys and values
    assert all(count <= 115 for count in counts[20:])  # system, gap, question, tail, last
    released = RowPlan(Flow.load("effective-llava-next-7b").bind(32).resolve(layout), undropped=1)
    assert (
        len(released.rows(32)) == 1267 - 1152 - 41 + 0
    )  # the open template text reads to the end, but not the video


def test_the_cache_holds_live_rows_only() -> None:
    model, make_inputs = tiny("llama", layers=4)
    prompt = make_inputs(frames=4)
    flow = Flow(
        "pathway", "p", "p", pathways=(Pathway(LayerRange("1"), LayerRange("1-2"), LayerRange("3"), True),)
    )
    with intervene(model, flow, prompt.layout, engine="sparse"), torch.no_grad():
        cache = model(**prompt.tensors, logits_to_keep=1, use_cache=True).past_key_values
    lengths = [stored.keys.shape[2] for stored in cache.layers]
    video = prompt.layout.size("video")
    assert lengths[0] == prompt.num_tokens  # the host reads the prompt's length here
    assert all(length <= prompt.num_tokens - video for length in lengths[1:])


def test_more_than_the_last_position_is_never_silently_shorter() -> None:
    model, make_inputs = tiny("llama")
    prompt = make_inputs()
    for wanted in ({}, {"logits_to_keep": 2}, {"output_hidden_states": True, "logits_to_keep": 1}):
        with torch.no_grad():
            with intervene(model, "blind", prompt.layout, engine="dense"):
                dense = model(**prompt.tensors, **wanted)
            with intervene(model, "blind", prompt.layout, engine="sparse"):
                sparse = model(**prompt.tensors, **wanted)
        assert torch.equal(dense.logits, sparse.logits)
        if dense.hidden_states is not None:
            assert [h.shape for h in dense.hidden_states] == [h.shape for h in sparse.hidden_states]


def test_dropped_rows_are_really_not_computed() -> None:
    model, make_inputs = tiny("llama")
    prompt = make_inputs(frames=4)
    seen: list[int] = []
    mlps: list[Any] = [layer.mlp for layer in decoder_layers(find_decoder(model))]
    handles = [mlp.register_forward_hook(Hook(lambda m, a, out: seen.append(out.shape[1]))) for mlp in mlps]
    try:
        with intervene(model, "blind", prompt.layout, engine="sparse"), torch.no_grad():
            seen.clear()  # the model is tried on a made-up prompt first
            model(**prompt.tensors, logits_to_keep=1)
    finally:
        for handle in handles:
            handle.remove()
    without_video = prompt.num_tokens - prompt.layout.size("video")
    assert seen == [prompt.num_tokens, without_video, without_video, without_video]


def test_a_step_by_hand_goes_on_from_the_live_cache() -> None:
    model, make_inputs = tiny("qwen2")
    prompt = make_inputs(frames=4)
    logits = {}
    for engine in ("dense", "sparse"):
        with intervene(model, "blind", prompt.layout, engine=engine), torch.no_grad():
            out = model(**prompt.tensors, logits_to_keep=1)
            token = torch.tensor([[42, 43]], device=DEVICE)  # two at once
            logits[engine] = model(input_ids=token, past_key_values=out.past_key_values).logits
    assert difference(logits["dense"], logits["sparse"]) < TOLERANCE


def test_windows_are_left_to_the_reference() -> None:
    """Where a layer looks back by position, rows may not move: the result is the dense one, to the bit."""
    model, make_inputs = tiny("gemma2")
    prompt = make_inputs()
    with torch.no_grad():
        with intervene(model, "cross_frame@1-2", prompt.layout, engine="dense"):
            dense = model(**prompt.tensors, logits_to_keep=1).logits
        with intervene(model, "cross_frame@1-2", prompt.layout, engine="sparse"):
            assert torch.equal(dense, model(**prompt.tensors, logits_to_keep=1).logits)


def test_hooks_come_off() -> None:
    model, make_inputs = tiny("llama")
    prompt = make_inputs()
    before = model(**prompt.tensors).logits
    with pytest.raises(ZeroDivisionError), intervene(model, "blind", prompt.layout, engine="sparse"):
        raise ZeroDivisionError
    assert torch.equal(model(**prompt.tensors).logits, before)
    for module in model.modules():
        assert not module._forward_pre_hooks
        assert not module._forward_hooks


def test_a_plan_keeps_what_the_masks_need() -> None:
    """Every row that some way to `last` passes through is among those that enter, by walking the masks themselves."""
    from lmms_flow.engine import keep_masks

    checked = 0
    for seed in range(60):
        layout = random_layout(seed, empty=False)
        for text in (
            "blind",
            "video:question@2-+video:last",
            "cross_frame",
            "question:last@2-",
            "system:last",
        ):
            try:
                resolved = Flow.load(text).bind(3).resolve(layout)
            except ValueError:
                continue
            plan = RowPlan(resolved, undropped=0)
            live = {layout.num_tokens - 1}
            for layer in (3, 2, 1):
                mask = keep_masks(text, layout, 3)[layer - 1]
                live |= {int(key) for query in live for key in mask[query].nonzero()[:, 0]}
                assert live <= set(plan.rows(layer)), (seed, text, layer)
                # What stays in the cache is what `last` reads, and nothing else.
                read = keep_masks(text, layout, 3)[layer - 1][-1].nonzero()[:, 0].tolist()
                assert list(plan.rows_read_by_last(layer)) == read, (seed, text, layer)
            checked += 1
    assert checked > 150


@pytest.mark.smoke
def test_layouts_and_plans_are_of_the_prompt() -> None:
    layout = Layout(
        4, {"system": range(1), "video": range(1, 2), "question": range(2, 3), "last": range(3, 4)}
    )
    plan = RowPlan(Flow.load("blind").bind(2).resolve(layout), undropped=1)
    assert plan.rows(1) == (0, 1, 2, 3)
    assert plan.rows(2) == (0, 2, 3)
    assert plan.rows_read_by_last(2) == (0, 2, 3)


def test_states_that_the_configuration_asks_for_are_whole() -> None:
    model, make_inputs = tiny("llama", attn_implementation="sdpa")
    prompt = make_inputs(frames=4)
    model.config.output_hidden_states = True
    with intervene(model, "blind", prompt.layout), torch.no_grad():
        out = model(**prompt.tensors, logits_to_keep=1)
    assert {states.shape[1] for states in out.hidden_states} == {prompt.num_tokens}


def test_places_to_keep_are_not_a_number_of_them() -> None:
    model, make_inputs = tiny("llama", attn_implementation="sdpa")
    prompt = make_inputs(frames=4)
    for places in (torch.tensor([1], device=DEVICE), torch.tensor([0, 5], device=DEVICE)):
        logits = []
        for engine in ("dense", "sparse"):
            with intervene(model, "blind", prompt.layout, engine=engine), torch.no_grad():
                logits.append(model(**prompt.tensors, logits_to_keep=places).logits)
        assert difference(*logits) < TOLERANCE


# From layer 3 on the video's tokens are read and read nothing that is still there.
READ_AND_READ_NOTHING = (
    "system:text@3-+video:video@3-",
    "system:text@2-+video:video@2-+question:text@1-2",
    "system:text@3-+intra_frame@3-+cross_frame@3-+video:video@4-",
    "system:text@2-+question:question@2-+gap:text@2-+video:text@2-",
)


@pytest.mark.parametrize(("family", "attention"), [(family, each) for family, each in RUNS if each == "sdpa"])
def test_rows_that_are_read_and_read_nothing_that_is_left(family: str, attention: str) -> None:
    """Found by random flows: such a strip of rows had no keys, and the sparse engine ended with torch's error."""
    model, make_inputs = tiny(family, attn_implementation=attention)
    prompts = [make_inputs(frames=4, system=2 + i, tail=3 + i, seed=i) for i in range(2)]
    asked: list[tuple[Any, Any]] = [(join(prompts), [prompt.layout for prompt in prompts])]
    asked.append((prompts[0].tensors, prompts[0].layout))
    compared = 0
    for text in READ_AND_READ_NOTHING:
        for tensors, layouts in asked:
            try:
                dense = run(model, tensors, Flow.load(text), layouts, "dense", new=2)
            except FlowError:  # a window hides what is left
                continue
            sparse = run(model, tensors, Flow.load(text), layouts, "sparse", new=2)
            assert difference(dense[0], sparse[0]) < TOLERANCE, text
            assert torch.equal(dense[1].sequences, sparse[1].sequences), text
            compared += 1
    assert compared


def test_what_a_caller_does_not_ask_for_keeps_no_rows() -> None:
    """`output_attentions=False` asks for nothing, as None does."""
    model, make_inputs = tiny("llama", attn_implementation="sdpa")
    prompt = make_inputs(frames=4)
    held = {}
    for asked in (None, False, True):
        with intervene(model, "blind", prompt.layout), torch.no_grad():
            out = model(**prompt.tensors, logits_to_keep=1, output_hidden_states=asked)
        held[asked] = out.past_key_values.layers[-1].keys.shape[2]
    assert held[None] == held[False] < held[True] == prompt.num_tokens


def test_a_forward_that_broke_off_before_the_decoder_asks_nothing_of_the_next() -> None:
    """What it asked for, the last position alone, is not taken for the wish of whoever calls the decoder then."""
    model, make_inputs = tiny("llava", attn_implementation="sdpa")
    prompt = make_inputs(frames=2)
    broken = prompt.tensors | {"pixel_values": prompt.tensors["pixel_values"][:, :2]}
    with intervene(model, "blind", prompt.layout), torch.no_grad():
        with pytest.raises((RuntimeError, ValueError)):
            model(**broken, logits_to_keep=1)
        ids = prompt.tensors["input_ids"]
        states = find_decoder(model)(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state
    assert states.shape[1] == prompt.num_tokens


@pytest.mark.parametrize("flow", ["random:0.2:seed1", "video:question@2-+video:last"])
def test_beams_read_what_their_own_prompt_does(flow: str) -> None:
    """The scores too, of a random draw that cuts single edges of the generated tokens' row."""
    model, make_inputs = tiny("llama", attn_implementation="sdpa")
    prompts = [make_inputs(frames=3), make_inputs(frames=4, system=5, seed=1)]
    settings = {"num_beams": 2, "num_return_sequences": 2, "max_new_tokens": 5, "do_sample": False}
    found = []
    for engine in ("dense", "sparse"):
        with intervene(model, flow, [prompt.layout for prompt in prompts], engine=engine), torch.no_grad():
            found.append(
                model.generate(**join(prompts), **settings, return_dict_in_generate=True, output_scores=True)
            )
    assert torch.equal(found[0].sequences, found[1].sequences)
    torch.testing.assert_close(found[0].sequences_scores, found[1].sequences_scores, rtol=1e-5, atol=1e-6)
