"""Hooks, forwards and attention functions of other people: their work and the flow's are both done, or refused."""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch.nn.modules.module import register_module_forward_hook
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from lmms_flow.engine import intervene, sweep
from lmms_flow.engine.hooks import Handles, has_foreign_hooks
from lmms_flow.flow import FlowError
from tests.support.odd_models import LAYERS, LAYOUT, by_hand, last, off, prompt, text_model

ENGINES = ("dense", "sparse")
EXACT = 1e-5
FLOW = "video:question@1-2+video:last@2-"


@pytest.fixture
def model() -> Any:
    return text_model()


def shifted(states: Any) -> Any:
    """Something that a steering hook does, and that goes by the place of a row."""
    states = states.clone()
    states[:, 5] += 1.0
    return states


@contextmanager
def steered_everywhere(model: Any) -> Iterator[None]:
    """By a hook on all modules of all models."""

    def steer(module: Any, args: Any, output: Any) -> Any:
        return shifted(output) if type(module).__name__ == "LlamaMLP" else None

    handle = register_module_forward_hook(steer)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def steered_by_forward(model: Any) -> Iterator[None]:
    """By a forward in the place of the module's own."""
    mlp = model.model.layers[1].mlp
    before = mlp.forward
    mlp.forward = lambda states: shifted(before(states))
    try:
        yield
    finally:
        del mlp.forward


@contextmanager
def other_attention(model: Any) -> Iterator[None]:
    """By an attention function of the same name."""

    def sharper(module: Any, query: Any, *args: Any, **kwargs: Any) -> Any:
        return sdpa_attention_forward(module, 1.3 * query, *args, **kwargs)

    AttentionInterface.register("sdpa", sharper)
    try:
        yield
    finally:
        AttentionInterface.register("sdpa", sdpa_attention_forward)


@pytest.mark.parametrize("change", [steered_everywhere, steered_by_forward, other_attention])
def test_what_somebody_else_does_to_the_model_is_done_under_a_flow_and_in_a_sweep(
    model: Any, change: Callable[..., Any]
) -> None:
    plain = by_hand(model, FLOW)
    with change(model):
        want = by_hand(model, FLOW)
        assert off(want, plain) > 1e-3
        for engine in ENGINES:
            with intervene(model, FLOW, LAYOUT, engine=engine):
                assert off(last(model), want) < EXACT
        found = sweep(model, prompt(), LAYOUT, ["video:question"], window=1)
        for layer in range(1, LAYERS + 1):
            probability = by_hand(model, f"video:question@{layer}").softmax(-1)[found.answer]
            assert float(found.probabilities[0, layer - 1]) == pytest.approx(float(probability), rel=1e-4)


def without_mask(module: Any, args: Any, kwargs: Any) -> Any:
    return args, kwargs | {"attention_mask": None}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("put", ["before the block", "inside it"])
def test_a_hook_that_takes_a_layers_mask_away_leaves_the_flows_cuts(
    model: Any, engine: str, put: str
) -> None:
    """The model's own mask is the causal triangle, which the flow's mask holds as well."""
    want, layer = by_hand(model, FLOW), model.model.layers[1]
    if put == "before the block":
        layer.register_forward_pre_hook(without_mask, with_kwargs=True)
    with intervene(model, FLOW, LAYOUT, engine=engine):
        if put == "inside it":
            layer.register_forward_pre_hook(without_mask, with_kwargs=True)
        for _ in range(2):
            assert off(last(model), want) < EXACT


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("put", ["before the block", "inside it"])
def test_a_hook_that_changes_the_mask_of_an_attention_is_refused(model: Any, engine: str, put: str) -> None:
    attention = model.model.layers[1].self_attn
    if put == "before the block":
        attention.register_forward_pre_hook(without_mask, with_kwargs=True)
    with intervene(model, FLOW, LAYOUT, engine=engine):
        if put == "inside it":
            attention.register_forward_pre_hook(without_mask, with_kwargs=True)
        with pytest.raises(FlowError, match="another hook changes the attention mask of LlamaAttention"):
            last(model)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_hook_that_only_looks_at_an_attention_sees_every_row(model: Any, engine: str) -> None:
    seen: list[int] = []
    model.model.layers[2].self_attn.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["hidden_states"].shape[1]), with_kwargs=True
    )
    want = by_hand(model, FLOW)
    with intervene(model, FLOW, LAYOUT, engine=engine):
        assert off(last(model), want) < EXACT
    assert set(seen) == {LAYOUT.num_tokens}


@pytest.mark.parametrize("engine", ENGINES)
def test_a_decoders_call_that_is_changed_behind_the_check_is_refused(model: Any, engine: str) -> None:
    """By a hook of a library that puts tokens of its own before the prompt."""

    def longer(module: Any, args: Any, kwargs: Any) -> Any:
        embedded = module.embed_tokens(kwargs["input_ids"])
        changed = {"input_ids": None, "inputs_embeds": torch.cat([embedded[:, :2], embedded], 1)}
        return args, kwargs | changed | {"attention_mask": None, "position_ids": None}

    with intervene(model, FLOW, LAYOUT, engine=engine):
        model.model.register_forward_pre_hook(longer, with_kwargs=True)
        for message in ("another hook on the model changes the call", "has a prompt of 29 tokens"):
            with pytest.raises(FlowError, match=message):
                last(model)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("what", ["forward", "is_causal"])
def test_an_attention_that_is_changed_inside_the_block_is_refused(model: Any, engine: str, what: str) -> None:
    attention = model.model.layers[2].self_attn
    with intervene(model, FLOW, LAYOUT, engine=engine):
        setattr(attention, what, False if what == "is_causal" else lambda *args, **kwargs: None)
        with pytest.raises(FlowError, match="layers were changed"):
            last(model)


def of_transformers(module: Any, args: Any) -> None:
    """A hook as transformers puts one on."""


of_transformers = types.FunctionType(of_transformers.__code__, {"__name__": "transformers.utils.made_up"})


def test_ours_goes_behind_a_later_hook_of_somebody_else_and_behind_no_other(model: Any) -> None:
    """Whatever stands behind that one."""
    layer, handles = model.model.layers[0], Handles()
    before = layer.register_forward_pre_hook(lambda module, args: None)
    handles.before(layer, lambda *call: None)
    ours = handles._handles[0].id
    layer.register_forward_pre_hook(of_transformers)
    handles.stay_last()
    assert list(layer._forward_pre_hooks).index(ours) == 1, "nobody else came behind"
    before.remove()
    layer.register_forward_pre_hook(lambda module, args: None)
    layer.register_forward_pre_hook(of_transformers)
    handles.stay_last()
    assert list(layer._forward_pre_hooks)[-1] == ours
    handles.remove()


@pytest.mark.parametrize("register", ["register_forward_hook", "register_forward_pre_hook"])
def test_a_hook_of_somebody_else_is_seen_beside_those_of_transformers(model: Any, register: str) -> None:
    part = model.model.layers[1].mlp
    getattr(part, register)(of_transformers)
    assert not has_foreign_hooks(model)
    getattr(part, register)(lambda *call: None)
    assert has_foreign_hooks(model)


@pytest.mark.parametrize("engine", ENGINES)
def test_attention_is_watched_once_however_many_calls_there_are(model: Any, engine: str) -> None:
    attention = model.model.layers[1].self_attn
    attention.register_forward_pre_hook(lambda module, args: None)
    with intervene(model, FLOW, LAYOUT, engine=engine):
        counts = []
        for _ in range(3):
            last(model)
            counts.append(len(attention._forward_pre_hooks))
    assert counts == [3, 3, 3]  # and ours before and behind it
    assert len(attention._forward_pre_hooks) == 1
