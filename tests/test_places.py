"""A forward's rows and columns: which tokens they are, what is taken of them, and when two tensors are the same."""

from __future__ import annotations

import torch

from lmms_flow.engine.columns import Columns
from lmms_flow.engine.dense import adds_to_scores, expand, to_additive
from lmms_flow.engine.layer_call import ModelCall
from lmms_flow.engine.model_state import are_equal
from lmms_flow.engine.positions import attended_tokens
from tests.support.odd_models import text_model


def test_each_row_of_a_forward_is_its_prompts_and_padding_is_the_models_own() -> None:
    """Behind the prompt's rows stands that of generated tokens, which read one another."""
    prompt = torch.rand(6, 5, generator=torch.Generator().manual_seed(0)) < 0.5
    tokens = torch.tensor([-1, 0, 1, 2, 3, 4, 5, 6])
    found = expand(prompt, tokens, tokens)
    assert torch.equal(found[1:6, 1:6], prompt[:5])
    assert torch.equal(found[6:, 1:6], prompt[[5, 5]])
    assert bool(found[0].all() and found[:, 0].all() and found[:, 6:].all())


def test_columns_of_padding_are_no_tokens() -> None:
    mask = torch.tensor([[0, 1, 0, 1, 1], [1, 1, 1, 0, 0]])
    call = ModelCall.of_decoder(text_model().model, (), {"attention_mask": mask})
    found = attended_tokens(call, torch.zeros(2, 5), 0)
    assert found.tolist() == [[-1, 0, -1, 1, 2], [0, 1, 2, -1, -1]]


def test_which_masks_of_a_model_say_more_than_which_edges_there_are() -> None:
    edges = torch.ones(1, 1, 4, 4, dtype=torch.bool).tril()
    hidden = to_additive(edges, torch.float32)
    assert not adds_to_scores(edges)
    assert not adds_to_scores(hidden)
    assert adds_to_scores(hidden - torch.arange(4.0).flip(0))


def test_columns_that_are_a_whole_prompt() -> None:
    assert Columns(torch.arange(4)[None]).is_all_of(4)
    assert not Columns(torch.arange(4)[None]).is_all_of(5)
    assert not Columns(torch.tensor([[1, 2, 3]])).is_all_of(3)
    assert not Columns(torch.tensor([[-1, 0, 1]])).is_all_of(3)


def test_tensors_of_other_shapes_are_not_equal() -> None:
    one = torch.arange(6)
    assert are_equal([(one, one.clone())])
    assert not are_equal([(one.view(2, 3), one.view(3, 2))])
    assert not are_equal([(one, one.float())])
    large = torch.zeros(2**16 + 1)
    assert are_equal([(large, large.clone())])
    assert not are_equal([(large, torch.cat([large[1:], torch.ones(1)]))])
