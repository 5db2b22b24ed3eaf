"""What is remembered of a model is forgotten with the object: another at its address is another."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from lmms_flow.engine import UnsupportedModelError, find_decoder, intervene, ledger, one_vision_pass
from lmms_flow.engine import proof as proof_module
from lmms_flow.engine.marks import mark
from lmms_flow.engine.model_state import ModelState
from lmms_flow.engine.vision import counting_vision
from tests.support.models import tiny
from tests.support.odd_models import LAYOUT, last, off, text_model

TIMES = 10  # Python gives the address of what is gone to the next of its size, nearly every time


class Plain:
    """Something that can be marked."""


def test_a_mark_is_of_one_object_for_as_long_as_it_lives() -> None:
    one, other = Plain(), Plain()
    assert mark(one) == mark(one)
    assert mark(one) != mark(other)
    of_one, address = mark(one), id(one)
    del one
    found = [Plain() for _ in range(100)]
    assert address in map(id, found), "this Python keeps addresses"
    assert all(mark(each) != of_one for each in found)
    assert of_one != mark(None)
    assert mark(None) is None
    assert mark(3) == mark(3)
    weights = torch.zeros(2)
    assert mark(weights) == mark(weights) != mark(torch.zeros(2))


@pytest.mark.parametrize("by", ["a hook", "a forward"])
def test_features_made_under_another_change_are_made_again(by: str) -> None:
    """One change of the projector is gone before the next comes, and lies where that one lay."""
    model, make_inputs = tiny("llava", attn_implementation="sdpa")
    tensors, projector = make_inputs(frames=2).tensors, model.model.multi_modal_projector

    def changed(factor: float) -> Any:
        if by == "a hook":
            handle = projector.register_forward_hook(lambda module, args, output: output * factor)
            try:
                return model(**tensors).logits
            finally:
                handle.remove()
        whole = projector.forward
        projector.forward = lambda states: whole(states) * factor
        try:
            return model(**tensors).logits
        finally:
            del projector.forward

    with torch.no_grad():
        wanted = [changed(factor) for factor in (2.0, 4.0)]
        with one_vision_pass(model) as passes:
            for _ in range(TIMES):
                for factor, want in zip((2.0, 4.0), wanted, strict=True):
                    assert torch.equal(changed(factor), want)
    assert passes.saved == 0


def test_an_attention_that_takes_the_place_of_a_proven_one_is_looked_at() -> None:
    model = text_model()
    attention = model.model.layers[1].self_attn
    whole = attention.forward
    for _ in range(TIMES):
        attention.forward = lambda *args, **kwargs: whole(*args, **kwargs)
        with intervene(model, "blind", LAYOUT):
            pass
        del attention.forward
        attention.forward = lambda *args, **kwargs: whole(*args, **{**kwargs, "attention_mask": None})
        with pytest.raises(UnsupportedModelError):
            intervene(model, "blind", LAYOUT).__enter__()
        del attention.forward
    assert len(proof_module._proven[find_decoder(model)]) <= proof_module.LAST


def test_a_layer_of_another_width_costs_what_it_costs() -> None:
    model = text_model()
    make = type(model.model.layers[0].mlp)
    config = SimpleNamespace(hidden_size=64, mlp_bias=False, hidden_act="silu")
    spent: dict[int, set[int]] = {96: set(), 192: set()}
    for _ in range(TIMES):
        for width in spent:
            model.model.layers[0].mlp = None
            model.model.layers[0].mlp = make(SimpleNamespace(**vars(config), intermediate_size=width))
            spent[width].add(ledger(model, "none", LAYOUT).full.flops)
    assert [len(each) for each in spent.values()] == [1, 1]
    assert max(spent[96]) < min(spent[192])


def test_weights_that_take_the_place_of_others_are_others() -> None:
    """Also where they differ in one entry that is not looked at."""
    part = nn.Linear(64, 64, bias=False)
    for _ in range(TIMES):
        part.weight = nn.Parameter(torch.ones(64, 64))
        before = ModelState.of(part)
        part.weight = None  # type: ignore[assignment]
        part.weight = nn.Parameter(torch.ones(64, 64))
        with torch.no_grad():
            part.weight.data[0, 1] = 2.0  # behind autograd's back
        assert not before.equals(ModelState.of(part))
    assert ModelState.of(part).equals(ModelState.of(part))


def test_a_hook_that_follows_another_on_a_layer_is_run() -> None:
    model = text_model()
    found = []
    for factor in (2.0, 4.0) * TIMES:
        handle = model.model.layers[0].mlp.register_forward_hook(
            lambda module, args, output, f=factor: output * f
        )
        with intervene(model, "video:last@3-", LAYOUT):
            found.append(last(model))
        handle.remove()
    assert all(off(one, other) < 1e-6 for one, other in zip(found, found[2:], strict=False))
    assert off(found[0], found[1]) > 1e-3


def test_what_a_changed_layer_costs_is_measured_again() -> None:
    model = text_model()
    whole = ledger(model, "none", LAYOUT).full.flops
    model.model.layers[0].mlp.forward = lambda states: states * 0
    assert ledger(model, "none", LAYOUT).full.flops < whole
    del model.model.layers[0].mlp.forward
    assert ledger(model, "none", LAYOUT).full.flops == whole


def test_what_a_changed_tower_costs_is_counted_again() -> None:
    model, make_inputs = tiny("llava", attn_implementation="sdpa")
    tensors, spent = make_inputs(frames=2).tensors, []
    layer = model.model.vision_tower.encoder.layers[0]
    for _ in range(2):
        with torch.no_grad(), counting_vision(model) as counted:
            model(**tensors)
        spent.append(counted.flops)
        layer.mlp.forward = lambda states: states
    assert 0 < spent[1] < spent[0]
