"""Inside a block there is one contract: a prefill of the layout's prompt, then steps that go on from its cache."""

from __future__ import annotations

import copy
import pickle
import threading
from typing import Any

import pytest
import torch
import transformers

from lmms_flow.engine import (
    Baseline,
    UnsupportedModelError,
    intervene,
    one_vision_pass,
    require_self_check,
    sweep,
)
from lmms_flow.engine.layer_call import cache_in, going_on_from
from lmms_flow.errors import UserError
from lmms_flow.flow import Flow, FlowError, prompt_layout
from tests.support.models import tiny
from tests.support.odd_models import LAYERS, LAYOUT, LENGTH, by_hand, last, off, prompt, text_model, tokens

ENGINES = ("dense", "sparse")
EXACT = 1e-5
STEP = torch.tensor([[42]])


@pytest.fixture
def model() -> Any:
    return text_model()


@torch.no_grad()
def prefilled(model: Any, inputs: dict[str, Any] | None = None) -> Any:
    return cache_in(model(**(inputs or prompt()), logits_to_keep=1, use_cache=True))


def step(model: Any, cache: Any, ids: Any = STEP) -> Any:
    return last(model, {"input_ids": ids}, **going_on_from(model, cache))


# Calls that are not what the layout describes


@pytest.mark.parametrize("engine", ENGINES)
def test_tokens_in_the_cache_before_the_prompt_are_refused(model: Any, engine: str) -> None:
    cache = cache_in(model(tokens(10, 5), use_cache=True))
    with (
        intervene(model, "blind", LAYOUT, engine=engine),
        pytest.raises(FlowError, match="holds 10 tokens that were not"),
    ):
        last(model, {"input_ids": tokens()}, **going_on_from(model, cache))


@pytest.mark.parametrize("engine", ENGINES)
def test_prefix_tuning_is_refused_when_the_block_is_entered(model: Any, engine: str) -> None:
    peft = pytest.importorskip("peft")
    config = peft.PrefixTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM")
    tuned = peft.get_peft_model(model, config).eval()
    refused = pytest.raises(UnsupportedModelError, match="the cache holds 3 tokens")
    with refused, intervene(tuned, "blind", LAYOUT, engine=engine):
        pass


@pytest.mark.parametrize("engine", ENGINES)
def test_a_cached_beginning_of_the_prompt_is_served_where_the_flow_cuts_nothing_in_it(
    model: Any, engine: str
) -> None:
    ids = tokens()
    want = by_hand(model, "blind")
    cache = cache_in(model(ids[:, :3], use_cache=True))
    with intervene(model, "blind", LAYOUT, engine=engine):
        assert off(last(model, {"input_ids": ids[:, 3:]}, **going_on_from(model, cache)), want) < EXACT
    cache = cache_in(model(ids[:, :20], use_cache=True))
    with (
        intervene(model, "blind", LAYOUT, engine=engine),
        pytest.raises(FlowError, match="cuts edges of these tokens"),
    ):
        last(model, {"input_ids": ids[:, 20:]}, **going_on_from(model, cache))


@pytest.mark.parametrize("attn", ["sdpa", "eager"])
@pytest.mark.parametrize("engine", ENGINES)
def test_a_static_cache_is_refused_by_name(attn: str, engine: str) -> None:
    model = text_model(attn=attn)
    static: dict[str, Any] = {"cache_implementation": "static", "disable_compile": True}
    with (
        intervene(model, "blind", LAYOUT, engine=engine),
        pytest.raises(FlowError, match="not a StaticCache"),
    ):
        model.generate(**prompt(), max_new_tokens=2, do_sample=False, **static)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("second", ["system:last@1", "blind"])
def test_a_cache_of_another_block_is_refused(model: Any, engine: str, second: str) -> None:
    with intervene(model, "blind", LAYOUT, engine=engine):
        cache = prefilled(model)
    with (
        intervene(model, second, LAYOUT, engine=engine),
        pytest.raises(FlowError, match="not read in this block"),
    ):
        step(model, cache)


def test_a_pruned_cache_is_of_no_use_outside_its_block(model: Any) -> None:
    with intervene(model, "blind", LAYOUT):
        cache = prefilled(model)
    for other in (cache, copy.deepcopy(cache)):
        with pytest.raises(FlowError, match="pruned under a flow whose block has ended"):
            step(model, other)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_copy_of_the_cache_is_refused_inside_the_block(model: Any, engine: str) -> None:
    with intervene(model, "blind", LAYOUT, engine=engine):
        cache = prefilled(model)
        with pytest.raises(FlowError, match="not read in this block"):
            step(model, copy.deepcopy(cache))


def test_a_pruned_cache_is_not_pickled(model: Any) -> None:
    with intervene(model, "blind", LAYOUT):
        cache = prefilled(model)
        with pytest.raises(FlowError, match="can't be pickled"):
            pickle.dumps(cache)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_cache_that_rounds_its_keys_is_refused_by_name(model: Any, engine: str) -> None:
    """Its layers are growing ones to look at, and hold other numbers than were computed."""

    class RoundingLayer(transformers.cache_utils.DynamicLayer):  # type: ignore[misc]
        def update(self, key_states: Any, value_states: Any, *args: Any, **kwargs: Any) -> Any:
            return super().update(key_states.bfloat16().float(), value_states, *args, **kwargs)

    cache = transformers.DynamicCache()
    cache.layers = [RoundingLayer() for _ in range(LAYERS)]
    with (
        intervene(model, "blind", LAYOUT, engine=engine),
        pytest.raises(FlowError, match="not a DynamicCache of RoundingLayer"),
    ):
        last(model, **going_on_from(model, cache))


@pytest.mark.parametrize("engine", ENGINES)
def test_two_caches_in_turn_each_keep_their_own_keys(model: Any, engine: str) -> None:
    flow, prompts = "video:question+video:last@3-", (prompt(), prompt(video=9))
    wanted = [
        by_hand(model, flow, {"input_ids": torch.cat([each["input_ids"], STEP], 1)}) for each in prompts
    ]
    with intervene(model, flow, LAYOUT, engine=engine):
        caches = [prefilled(model, each) for each in prompts]
        for want, cache in zip(wanted, caches, strict=True):
            assert off(step(model, cache), want) < EXACT


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("flow", ["system:last+system:question@2-", "blind", "last:last@2"])
def test_two_tokens_decoded_in_one_call(model: Any, engine: str, flow: str) -> None:
    """The second reads the first, and the first does not read the second; both take the cuts of `last`."""
    two = torch.tensor([[42, 77]])
    want = by_hand(model, flow, {"input_ids": torch.cat([tokens(), two], 1)})
    with intervene(model, flow, LAYOUT, engine=engine):
        assert off(step(model, prefilled(model), two), want) < EXACT


@pytest.mark.parametrize("engine", ENGINES)
def test_cropping_the_cache_takes_off_generated_tokens_alone(model: Any, engine: str) -> None:
    with intervene(model, "blind", LAYOUT, engine=engine):
        want = step(model, prefilled(model), torch.tensor([[43]]))
        cache = prefilled(model)
        step(model, cache)
        cache.crop(-1)
        assert off(step(model, cache, torch.tensor([[43]])), want) < EXACT
        cache.crop(-3)
        with pytest.raises(FlowError, match="the cache holds"):
            step(model, cache)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    "empty", [lambda cache: cache.reset(), lambda cache: cache.crop(-LENGTH - 1)], ids=["reset", "cropped"]
)
def test_a_cache_that_was_emptied_is_filled_again(model: Any, engine: str, empty: Any) -> None:
    other = prompt(video=9)
    wanted = [
        by_hand(model, "blind", {"input_ids": torch.cat([other["input_ids"], *more], 1)})
        for more in ([], [STEP])
    ]
    with intervene(model, "blind", LAYOUT, engine=engine), torch.no_grad():
        cache = prefilled(model)
        step(model, cache)
        empty(cache)
        assert off(last(model, other, **going_on_from(model, cache)), wanted[0]) < EXACT
        assert off(step(model, cache), wanted[1]) < EXACT


def test_a_pruned_cache_is_not_cropped_to_a_length(model: Any) -> None:
    """Which is not that of what it holds; by none at all it stays as it is."""
    with intervene(model, "blind", LAYOUT):
        cache = prefilled(model)
        held = cache.layers[-1].keys
        assert held.shape[2] < LENGTH
        cache.layers[-1].crop(0)
        assert torch.equal(cache.layers[-1].keys, held)
        for length in (5, LENGTH - 1):
            with pytest.raises(FlowError, match=r"such as crop\(-1\)"):
                cache.layers[-1].crop(length)


@pytest.mark.parametrize("engine", ENGINES)
def test_samples_keep_their_places(model: Any, engine: str) -> None:
    other = prompt_layout(system=4, frames=3, tokens_per_frame=4, gap=1, question=7, tail=2)
    both = {"input_ids": torch.cat([tokens(), tokens(seed=2)])}
    with intervene(model, "video:question", [LAYOUT, other], engine=engine):
        cache = prefilled(model, both)
        cache.reorder_cache(torch.tensor([1, 0]))
        with pytest.raises(FlowError, match="order"):
            step(model, cache, STEP.expand(2, 1))
        cache = prefilled(model, both)
        cache.batch_select_indices(torch.tensor([0]))
        with pytest.raises(FlowError, match="in another order"):
            step(model, cache)


@pytest.mark.parametrize("engine", ENGINES)
def test_right_padding_is_served(model: Any, engine: str) -> None:
    short = prompt_layout(system=3, frames=3, tokens_per_frame=4, gap=2, question=5, tail=2)
    ids = torch.cat([tokens(), torch.nn.functional.pad(tokens(short.num_tokens, 7), (0, 2))])
    mask = torch.ones_like(ids)
    mask[1, short.num_tokens :] = 0
    alone = {"input_ids": ids[1:, : short.num_tokens], "attention_mask": mask[1:, : short.num_tokens]}
    want = by_hand(model, "blind", alone, short)
    with intervene(model, "blind", [LAYOUT, short], engine=engine), torch.no_grad():
        found = model(input_ids=ids, attention_mask=mask).logits[1, short.num_tokens - 1]
        last_column = model(input_ids=ids, attention_mask=mask, logits_to_keep=1).logits[0, -1]
    assert off(found, want) < EXACT
    assert off(last_column, by_hand(model, "blind")) < EXACT


@pytest.mark.parametrize("engine", ENGINES)
def test_position_ids_with_a_gap_are_run_as_the_model_reads_them(model: Any, engine: str) -> None:
    """transformers takes them for packed sequences, and makes a mask of its own, which must not be lost."""
    gap = torch.cat([torch.arange(10), torch.arange(14, 14 + LENGTH - 10)])[None]
    inputs = {"input_ids": tokens(), "position_ids": gap}
    want = by_hand(model, "blind", inputs)
    with intervene(model, "blind", LAYOUT, engine=engine):
        assert off(last(model, inputs, use_cache=False), want) < EXACT


GENERATION = {
    "assistant": "prompt of 28 tokens",
    "prefill_chunk_size": "prompt of 8 tokens",
    "guidance_scale": "prompt of 1 tokens",
    "assistant_early_exit": "ran the layers",
}


@pytest.mark.parametrize("mode", GENERATION)
def test_ways_to_generate_that_read_the_prompt_in_another_way_are_refused(model: Any, mode: str) -> None:
    values: dict[str, Any] = {"prefill_chunk_size": 8, "guidance_scale": 1.5, "assistant_early_exit": 2}
    extra = {"assistant_model": copy.deepcopy(model)} if mode == "assistant" else {mode: values[mode]}
    with intervene(model, "blind", LAYOUT), pytest.raises(UserError, match=GENERATION[mode]):
        model.generate(**prompt(), max_new_tokens=4, do_sample=False, **extra)


@pytest.mark.parametrize("engine", ENGINES)
def test_generating_without_a_cache_reads_the_prompt_again(model: Any, engine: str) -> None:
    found = {}
    for use_cache in (True, False):
        with intervene(model, "blind", LAYOUT, engine=engine):
            out = model.generate(**prompt(), max_new_tokens=5, do_sample=False, use_cache=use_cache)
        found[use_cache] = out[0, LENGTH:].tolist()
    assert found[True] == found[False]


def test_asking_for_router_logits_computes_every_row() -> None:
    model = text_model("Qwen3Moe", num_experts=4, num_experts_per_tok=2, moe_intermediate_size=32)
    with intervene(model, "blind", LAYOUT), torch.no_grad():
        out = model(**prompt(), logits_to_keep=1, output_router_logits=True)
    assert [each.shape[0] for each in out.router_logits] == [LENGTH] * LAYERS


def test_two_positions_that_are_asked_for_are_two_rows(model: Any) -> None:
    with intervene(model, "blind", LAYOUT, engine="dense"), torch.no_grad():
        want = model(**prompt(), logits_to_keep=2)
    with intervene(model, "blind", LAYOUT), torch.no_grad():
        found = model(**prompt(), logits_to_keep=2)
        states = model.model(**prompt()).last_hidden_state
    assert torch.equal(found.logits, want.logits)
    assert states.shape[1] == LENGTH


# A model that is not what it was


def compiled_forward(model: Any) -> Any:
    model.forward = torch.compile(model.forward, backend="eager")
    return model


def compiled_in_place(model: Any) -> Any:
    model.compile(backend="eager")
    return model


def compiled_layers(model: Any) -> Any:
    for layer in model.model.layers:
        layer.compile(backend="eager")
    return model


def compiled_wrapper(model: Any) -> Any:
    return torch.compile(model, backend="eager")


@pytest.mark.parametrize("how", [compiled_forward, compiled_in_place, compiled_layers, compiled_wrapper])
@pytest.mark.parametrize("engine", ENGINES)
def test_a_compiled_model_is_cut_like_any_other(model: Any, how: Any, engine: str) -> None:
    want = by_hand(model, "blind")
    compiled = how(model)
    last(compiled)
    with intervene(compiled, "blind", LAYOUT, engine=engine):
        assert off(last(compiled), want) < EXACT


def test_what_is_compiled_inside_a_block_is_not_cut_behind_its_end(model: Any) -> None:
    full, want = last(model), by_hand(model, "blind")
    with intervene(model, "blind", LAYOUT):
        compiled = compiled_wrapper(model)
        assert off(last(compiled), want) < EXACT
    assert off(last(compiled), full) < EXACT


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("how", [copy.deepcopy, pickle.dumps])
def test_a_model_is_not_copied_inside_a_block(model: Any, engine: str, how: Any) -> None:
    with intervene(model, "blind", LAYOUT, engine=engine), pytest.raises(FlowError, match="inside a block"):
        how(model)
    assert torch.equal(last(copy.deepcopy(model)), last(model))


@pytest.mark.parametrize("engine", ENGINES)
def test_attention_switched_inside_a_block_is_refused(model: Any, engine: str) -> None:
    with intervene(model, "blind", LAYOUT, engine=engine):
        model.set_attn_implementation("eager")
        with pytest.raises(FlowError, match="attention implementation was changed"):
            last(model)
    assert model.config._attn_implementation == "eager"


@pytest.mark.parametrize("engine", ENGINES)
def test_attention_of_one_layer_switched_inside_a_block_is_refused(model: Any, engine: str) -> None:
    for layer in model.model.layers:
        layer.self_attn.config = copy.deepcopy(model.config)
    with intervene(model, "blind", LAYOUT, engine=engine):
        assert off(last(model), by_hand(text_model(), "blind")) < EXACT
        model.model.layers[1].self_attn.config._attn_implementation = "eager"
        with pytest.raises(FlowError, match="layers were changed"):
            last(model)


@pytest.mark.parametrize("engine", ENGINES)
def test_an_adapter_may_be_switched_inside_a_block(model: Any, engine: str) -> None:
    """Each prefill is the flow's with the weights that it runs with."""
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    tuned = peft.get_peft_model(model, config).eval()
    with_adapter = by_hand(model, "blind")
    with tuned.disable_adapter():
        without = by_hand(model, "blind")
    assert off(with_adapter, without) > 1e-3
    with intervene(tuned, "blind", LAYOUT, engine=engine):
        assert off(last(tuned), with_adapter) < EXACT
        with tuned.disable_adapter():
            assert off(last(tuned), without) < EXACT
    tuned.merge_adapter()
    with intervene(tuned, "blind", LAYOUT, engine=engine):
        assert off(last(tuned), with_adapter) < EXACT


@pytest.mark.parametrize("engine", ENGINES)
def test_blocks_that_are_left_in_the_wrong_order_leave_the_model_as_it_was(model: Any, engine: str) -> None:
    outer, inner = (
        intervene(model, flow, LAYOUT, engine=engine) for flow in ("video:question", "video:last")
    )
    outer.__enter__()
    inner.__enter__()
    assert off(last(model), by_hand(text_model(), "video:question+video:last")) < EXACT
    outer.__exit__(None, None, None)
    if engine == "dense":
        assert off(last(model), by_hand(text_model(), "video:last")) < EXACT
    else:  # the outer one has taken its attention along
        with pytest.raises(FlowError, match="was changed inside the block"):
            last(model)
    inner.__exit__(None, None, None)
    assert torch.equal(last(model), last(text_model()))
    assert model.config._attn_implementation == "sdpa"


def test_layers_exchanged_inside_a_block_are_refused(model: Any) -> None:
    with intervene(model, "blind", LAYOUT):
        model.model.layers[1] = copy.deepcopy(text_model().model.layers[1])
        with pytest.raises(FlowError, match="layers were changed"):
            last(model)


def test_another_thread_is_refused(model: Any) -> None:
    raised: list[BaseException] = []

    def call() -> None:
        try:
            last(model)
        except FlowError as error:
            raised.append(error)

    with intervene(model, "blind", LAYOUT):
        thread = threading.Thread(target=call)
        thread.start()
        thread.join()
    assert "another thread" in str(raised[0])


@pytest.mark.parametrize("outer", ENGINES)
@pytest.mark.parametrize("inner", ENGINES)
@pytest.mark.parametrize(
    ("one", "other"),
    [("cross_frame@1-2", "video:last@3"), ("video:question", "video:gap+video:tail+video:last")],
)
def test_nested_blocks_join_their_cuts(model: Any, outer: str, inner: str, one: str, other: str) -> None:
    want = by_hand(model, f"{one}+{other}")
    with intervene(model, one, LAYOUT, engine=outer):
        with intervene(model, other, LAYOUT, engine=inner):
            assert off(last(model), want) < EXACT
        assert off(last(model), by_hand_outside(one)) < EXACT


def by_hand_outside(flow: str) -> Any:
    """The same model's twin, which no block is open on."""
    return by_hand(text_model(), flow)


def test_a_cache_of_both_blocks_is_not_gone_on_from_in_one(model: Any) -> None:
    with intervene(model, "video:question", LAYOUT, engine="dense"):
        with intervene(model, "video:last", LAYOUT):
            cache = prefilled(model)
        with pytest.raises(FlowError, match="under other flows"):
            step(model, cache)


def test_a_forward_that_broke_off_leaves_nothing_behind(model: Any) -> None:
    class StopError(Exception):
        pass

    def stop(*_: Any) -> None:
        raise StopError

    with intervene(model, "blind", LAYOUT):
        for part in (model.model.embed_tokens, model.model.layers[2].mlp):
            handle = part.register_forward_pre_hook(stop)
            with pytest.raises(StopError):
                last(model)
            handle.remove()
            with torch.no_grad():
                assert model.model(**prompt()).last_hidden_state.shape[1] == LENGTH
    assert torch.equal(last(model), last(text_model()))


# Hooks of other people


def steering(model: Any, number: int, position: int | None = None) -> Any:
    shift = torch.randn(64, generator=torch.Generator().manual_seed(3))

    def add(module: Any, args: Any, output: Any) -> Any:
        states = (output[0] if isinstance(output, tuple) else output).clone()
        states[:, slice(None) if position is None else position] += shift
        return (states, *output[1:]) if isinstance(output, tuple) else states

    return model.model.layers[number].register_forward_hook(add)


@pytest.mark.parametrize("position", [None, 5, LENGTH - 3])
def test_a_hook_that_steers_a_layer_is_in_the_sweep_and_under_both_engines(
    model: Any, position: int | None
) -> None:
    steering(model, 1, position)
    found = sweep(model, prompt(), LAYOUT, ["video:question"], window=1)
    for layer in range(1, LAYERS + 1):
        flow = f"video:question@{layer}"
        want = by_hand(model, flow)
        for engine in ENGINES:
            with intervene(model, flow, LAYOUT, engine=engine):
                assert off(last(model), want) < EXACT
        assert float(found.probabilities[0, layer - 1]) == pytest.approx(
            float(want.softmax(-1)[found.answer]), rel=1e-4
        )


# Baselines of another state


def recorded(model: Any, inputs: dict[str, Any] | None = None, flow: str = "video:last@3") -> Baseline:
    baseline = Baseline.for_flows([Flow.load(flow).bind(LAYERS).resolve(LAYOUT)])
    with baseline.recording(model):
        prefilled(model, inputs)
    return baseline


def test_a_baseline_is_not_recorded_under_a_flow(model: Any) -> None:
    with (
        intervene(model, "video:question@1-2", LAYOUT, engine="dense"),
        pytest.raises(FlowError, match="full attention"),
    ):
        recorded(model)


def hole(model: Any) -> Any:
    inputs = prompt()
    inputs["attention_mask"][0, 5] = 0
    return recorded(model, inputs)


def edited(model: Any) -> Any:
    baseline = recorded(model)
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight.mul_(1.5)
    return baseline


def edited_behind_autograd(model: Any) -> Any:
    baseline = recorded(model)
    model.model.layers[1].mlp.up_proj.weight.data.mul_(1.5)
    return baseline


def steered(model: Any) -> Any:
    handle = steering(model, 0)
    baseline = recorded(model)
    handle.remove()
    return baseline


def emptied(model: Any) -> Any:
    baseline = recorded(model)
    baseline.cache.crop(-9)
    return baseline


@pytest.mark.parametrize("stale", [hole, edited, edited_behind_autograd, steered, emptied])
def test_a_stale_baseline_is_not_gone_on_from(model: Any, stale: Any) -> None:
    baseline = stale(model)
    want = by_hand(model, "video:last@3")
    with intervene(model, "video:last@3", LAYOUT, baseline=baseline):
        assert off(last(model, **going_on_from(model, transformers.DynamicCache())), want) < EXACT


def test_a_baseline_recorded_with_an_adapter_is_not_used_without_it(model: Any) -> None:
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    tuned = peft.get_peft_model(model, config).eval()
    baseline = recorded(model)
    with tuned.disable_adapter():
        want = by_hand(model, "video:last@3")
        with intervene(model, "video:last@3", LAYOUT, baseline=baseline):
            assert off(last(model, **going_on_from(model, transformers.DynamicCache())), want) < EXACT


def test_pixels_changed_in_place_are_encoded_again() -> None:
    model, make_inputs = tiny("llava")
    tensors = make_inputs(frames=2).tensors
    with torch.no_grad(), one_vision_pass(model) as passes:
        first = model(**tensors).logits
        tensors["pixel_values"].data.mul_(-1)
        second = model(**tensors).logits
    assert passes.run == 2
    assert not torch.equal(first, second)
    with torch.no_grad():
        assert torch.equal(model(**tensors).logits, second)


def broken_off(model: Any) -> Any:
    """One whose first forward did not come to its end; the next one is of another prompt."""

    class StopError(Exception):
        pass

    def stop(*_: Any) -> None:
        raise StopError

    baseline = Baseline.for_flows([Flow.load("video:last@3").bind(LAYERS).resolve(LAYOUT)])
    with baseline.recording(model):
        handle = model.model.layers[1].register_forward_pre_hook(stop)
        with pytest.raises(StopError):
            prefilled(model)
        handle.remove()
        prefilled(model, prompt(video=9))
    return baseline


def refilled(model: Any) -> Any:
    """One whose cache was cropped, and filled with other tokens."""
    baseline = recorded(model)
    baseline.cache.crop(-9)
    step(model, baseline.cache, tokens(12, 5))
    return baseline


def rounded(model: Any) -> Any:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return recorded(model)


@pytest.mark.parametrize("stale", [broken_off, refilled, rounded])
def test_a_baseline_of_a_forward_that_went_another_way_is_not_gone_on_from(model: Any, stale: Any) -> None:
    test_a_stale_baseline_is_not_gone_on_from(model, stale)


def test_a_baseline_is_not_recorded_by_another_thread(model: Any) -> None:
    raised: list[BaseException] = []

    def call() -> None:
        try:
            prefilled(model)
        except FlowError as error:
            raised.append(error)

    with Baseline(frozenset({3})).recording(model):
        thread = threading.Thread(target=call)
        thread.start()
        thread.join()
    assert "another thread" in str(raised[0])


def test_gradients_go_back_through_layers_that_a_baseline_has_computed(model: Any) -> None:
    """The rows that it holds were computed without any."""
    baseline, weight = recorded(model), model.model.layers[0].mlp.up_proj.weight
    found = []
    for off_baseline in (None, baseline):
        model.zero_grad(set_to_none=True)
        with intervene(model, "video:last@3", LAYOUT, baseline=off_baseline):
            model(**prompt(), logits_to_keep=1).logits[0, -1, 7].backward()
        found.append(weight.grad.clone())
    assert off(found[1], found[0]) < EXACT
    assert float(found[0].abs().max()) > 0


# Sweeps


@pytest.mark.parametrize("extra", [{"use_cache": True}, {"logits_to_keep": 1}, {"return_dict": False}])
def test_a_sweep_sets_these_itself(model: Any, extra: dict[str, Any]) -> None:
    plain = sweep(model, prompt(), LAYOUT, ["video:last"], window=1)
    assert torch.equal(
        sweep(model, prompt() | extra, LAYOUT, ["video:last"], window=1).probabilities, plain.probabilities
    )


def test_a_sweep_names_what_it_does_not_take(model: Any) -> None:
    mask = torch.zeros(1, 1, LENGTH, LENGTH)
    for extra, message in (
        ({"past_key_values": transformers.DynamicCache()}, "leave past_key_values out"),
        ({"labels": tokens()}, "leave labels out"),
        ({"output_attentions": True}, "leave output_attentions out"),
        ({"attention_mask": mask}, r"attention_mask as \[batch, token\]"),
    ):
        with pytest.raises(FlowError, match=message):
            sweep(model, prompt() | extra, LAYOUT, ["video:last"])
    with pytest.raises(FlowError, match="there is no token 999"):
        sweep(model, prompt(), LAYOUT, ["video:last"], candidates=[999])
    with intervene(model, "blind", LAYOUT), pytest.raises(FlowError, match="inside a block"):
        sweep(model, prompt(), LAYOUT, ["video:last"])


def test_the_self_check_of_a_compiled_model_is_the_models_own(model: Any) -> None:
    assert require_self_check(compiled_forward(model))


@pytest.mark.parametrize("engine", ENGINES)
def test_layouts_of_several_kinds_under_a_window_of_the_models_own(engine: str) -> None:
    """A window's cache holds less than the prompt: the samples are not told apart by its keys."""
    model = text_model("Mistral", sliding_window=8)
    other = prompt_layout(system=4, frames=3, tokens_per_frame=4, gap=1, question=7, tail=2)
    flow, ids = "options:last+stem:tail", torch.cat([tokens(), tokens(seed=2)])
    wanted = [
        by_hand(model, flow, {"input_ids": torch.cat([ids[row : row + 1], STEP], 1)}, layout)
        for row, layout in enumerate((LAYOUT, other))
    ]
    with intervene(model, flow, [LAYOUT, other], engine=engine), torch.no_grad():
        cache = prefilled(model, {"input_ids": ids})
        logits = model(input_ids=STEP.expand(2, 1), **going_on_from(model, cache)).logits[:, -1]
    for want, found in zip(wanted, logits, strict=True):
        assert off(found, want) < EXACT


def test_a_model_in_training_without_checkpoints_is_served(model: Any) -> None:
    want = by_hand(model, "blind")
    with intervene(model.train(), "blind", LAYOUT, engine="dense"):
        assert off(model(**prompt()).logits[0, -1].detach(), want) < EXACT
