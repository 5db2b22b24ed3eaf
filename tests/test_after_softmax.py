"""Weights taken away behind the softmax: intervene and sweep against a plain computation of the attention."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AttentionInterface

from lmms_flow.engine import UnsupportedModelError, decoder_layers, find_decoder, intervene, keep_masks, sweep
from lmms_flow.engine.edge_attention import Zeroed, edge_attention, weighing_edges
from lmms_flow.engine.walks import window_layers
from lmms_flow.flow import FlowError
from tests.support.models import FAMILIES, join, tiny

TOLERANCE = 1e-5  # relative, fp32
KNOCKOUTS = ("video:question", "video:last", "question:last", "last:last", "cross_frame", "stem:true_option")


@contextmanager
def written_out(model: Any, keep: Tensor) -> Iterator[None]:
    """Eager attention as it is in the textbook, with the weights of the edges outside `keep` [layer, q, k] zeroed."""
    layers = [layer.self_attn for layer in decoder_layers(find_decoder(model))]

    def attend(module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Any, **kwargs: Any) -> Any:
        groups = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
        scores = query @ key.mT * kwargs["scaling"]
        if kwargs.get("softcap"):
            scores = (scores / kwargs["softcap"]).tanh() * kwargs["softcap"]
        number = layers.index(module)
        past = key.shape[2] - query.shape[2]
        scores = scores + (0 if mask is None else mask)
        causal = query.new_ones(key.shape[2], key.shape[2], dtype=torch.bool).tril()[past:]
        weights = scores.masked_fill(~causal, -torch.inf).softmax(-1)
        return ((weights * keep[number].to(weights.device)) @ value).transpose(1, 2).contiguous(), None

    AttentionInterface.register("written_out", attend)
    from transformers.masking_utils import AttentionMaskInterface, eager_mask

    AttentionMaskInterface.register("written_out", eager_mask)
    config: Any = find_decoder(model).config
    before = config._attn_implementation
    config._attn_implementation = "written_out"
    try:
        yield
    finally:
        config._attn_implementation = before


def plainly(model: Any, tensors: dict[str, Tensor], flow: str, layout: Any) -> Tensor:
    depth = len(decoder_layers(find_decoder(model)))
    with written_out(model, keep_masks(flow, layout, depth)), torch.no_grad():
        return model(**tensors).logits[0, -1]


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma2", "internvl", "qwen2_5_vl"])
def test_a_block_equals_the_attention_written_out(family: str, attention: str) -> None:
    model, make_inputs = tiny(family, attn_implementation="eager" if family == "gemma2" else attention)
    prompt = make_inputs(frames=3)
    for flow in ("video:question@2-3", "cross_frame+video:last", "question:last@1+last:last"):
        expected = plainly(model, prompt.tensors, flow, prompt.layout)
        with (
            intervene(model, flow, prompt.layout, engine="dense", how="after_softmax"),
            torch.no_grad(),
        ):
            got = model(**prompt.tensors).logits[0, -1]
        with intervene(model, flow, prompt.layout, engine="dense"), torch.no_grad():
            knocked_out = model(**prompt.tensors).logits[0, -1]
        scale = expected.abs().max()
        assert float((got - expected).abs().max() / scale) < TOLERANCE
        assert float((got - knocked_out).abs().max() / scale) > 100 * TOLERANCE


@pytest.mark.parametrize("family", FAMILIES)
def test_a_sweep_equals_one_block_a_knockout(family: str) -> None:
    model, make_inputs = tiny(family, attn_implementation="eager" if family == "gemma2" else "sdpa")
    prompt = make_inputs(frames=3)
    result = sweep(
        model, prompt.tensors, prompt.layout, KNOCKOUTS, window=3, layers=(1, 3), how="after_softmax"
    )
    worst = 0.0
    for k, knockout in enumerate(KNOCKOUTS):
        for place, layer in enumerate(result.layers):
            flow = "+".join(f"{knockout}@{each}" for each in window_layers(layer, 4, 3, "center"))
            with (
                intervene(model, flow, prompt.layout, engine="dense", how="after_softmax"),
                torch.no_grad(),
            ):
                expected = model(**prompt.tensors, logits_to_keep=1).logits[0, -1].softmax(-1)
            worst = max(worst, abs(float(result.probabilities[k, place] / expected[result.answer]) - 1))
    print(f"{family}: largest relative difference {worst:.1e}")
    assert worst < TOLERANCE


def test_batches_and_generation_equal_one_prompt_at_a_time() -> None:
    model, make_inputs = tiny("qwen2", attn_implementation="sdpa")
    prompts = [make_inputs(frames=2), make_inputs(frames=4, seed=1)]
    flow, kwargs = "video:last+video:question@2-", {"max_new_tokens": 4, "do_sample": False}
    alone = []
    for prompt in prompts:
        with intervene(model, flow, prompt.layout, engine="dense", how="after_softmax"):
            alone.append(model.generate(**prompt.tensors, **kwargs)[0, -4:])
    layouts = [prompt.layout for prompt in prompts]
    with intervene(model, flow, layouts, engine="dense", how="after_softmax"):
        together = model.generate(**join(prompts), **kwargs)[:, -4:]
    assert torch.equal(together, torch.stack(alone))


def test_what_is_refused() -> None:
    model, make_inputs = tiny("llama")
    prompt = make_inputs()
    with pytest.raises(FlowError, match="did you mean 'after_softmax'"):
        sweep(model, prompt.tensors, prompt.layout, ["video:last"], how="after_softmx")
    with (
        pytest.raises(FlowError, match="write engine='dense'"),
        intervene(model, "video:last", prompt.layout, how="after_softmax"),
    ):
        pass
    with (
        intervene(model, "video:last", prompt.layout),
        pytest.raises(FlowError, match="takes a block of its own"),
        intervene(model, "blind", prompt.layout, engine="dense", how="after_softmax"),
    ):
        pass
    assert model.config._attn_implementation == "eager"


def test_attention_past_the_interface_and_unknown_arguments_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, _ = tiny("llama")
    attention: Any = decoder_layers(find_decoder(model))[0].self_attn
    row = torch.zeros(1, 1, 1, 4)
    with pytest.raises(
        UnsupportedModelError, match="gives its attention position_bias, of which nothing is known"
    ):
        edge_attention(attention, row, row, row, None, position_bias=torch.zeros(1))
    monkeypatch.setattr(attention, "forward", lambda hidden_states, attention_mask=None: hidden_states)
    with (
        pytest.raises(UnsupportedModelError, match="does not run through transformers' attention interface"),
        weighing_edges(find_decoder(model)),
    ):
        pass


@pytest.mark.parametrize("chunk", [1, 7, 30])
def test_the_rows_of_a_long_prompt_are_weighed_in_chunks(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model, make_inputs = tiny("llama")
    prompt = make_inputs(frames=6)
    assert prompt.layout.num_tokens > 30 > model.config.hidden_size // model.config.num_attention_heads
    monkeypatch.setattr("lmms_flow.engine.edge_attention.CHUNK_ROWS", chunk)
    with (
        intervene(model, "video:question", prompt.layout, how="after_softmax", engine="dense"),
        torch.no_grad(),
    ):
        found = model(**prompt.tensors).logits[0, -1]
    expected = plainly(model, prompt.tensors, "video:question", prompt.layout)
    assert (found - expected).abs().max() < TOLERANCE * expected.abs().max()


def heads(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    random = torch.Generator().manual_seed(seed)
    query = torch.randn(1, 4, 5, 8, generator=random)
    key, value = (torch.randn(1, 2, 5, 8, generator=random) for _ in range(2))
    return query, key, value


class Grouped(torch.nn.Module):
    num_key_value_groups = 2
    is_causal = True


def test_a_sink_takes_its_share_where_nothing_is_cut() -> None:
    """GPT-OSS's attention, in a layer that is given no mask."""
    query, key, value = heads()
    sinks = torch.tensor([0.5, -1.0, 2.0, 0.0])
    found, _ = edge_attention(Grouped(), query, key, value, None, s_aux=sinks)
    scores = query @ key.repeat_interleave(2, 1).mT * 8**-0.5
    scores = scores.masked_fill(~torch.ones(5, 5, dtype=torch.bool).tril(), -torch.inf)
    weights = torch.cat([scores, sinks[None, :, None, None].expand(1, 4, 5, 1)], -1).softmax(-1)[..., :-1]
    wanted = (weights @ value.repeat_interleave(2, 1)).transpose(1, 2)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("training", "dropout"), [(True, 0.0), (False, 0.1), (False, 0.0)])
def test_edges_are_weighed_where_nothing_is_dropped(training: bool, dropout: float) -> None:
    module, (query, key, value) = Grouped().train(training), heads()
    mask = Zeroed(None, torch.ones(1, 1, 5, 5, dtype=torch.bool).tril(-1) | torch.eye(5, dtype=torch.bool))
    found, _ = edge_attention(module, query, key, value, mask, dropout=dropout)
    plain, _ = edge_attention(Grouped().eval(), query, key, value, mask)
    assert torch.equal(found, plain)


def test_edges_are_not_weighed_under_dropout() -> None:
    query, key, value = heads()
    mask = Zeroed(None, torch.ones(1, 1, 5, 5, dtype=torch.bool).tril())
    with pytest.raises(UnsupportedModelError, match=r"call eval\(\)"):
        edge_attention(Grouped().train(), query, key, value, mask, dropout=0.1)
