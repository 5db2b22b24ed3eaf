"""Read-outs of states against plain loops over all hidden states: generation probability and the logit lens."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from lmms_flow.engine import Baseline, UnsupportedModelError, intervene
from lmms_flow.engine.head import Head
from lmms_flow.flow import Flow, FlowError, Layout
from lmms_flow.trace import (
    GenerationProbability,
    LogitLens,
    VideoAttention,
    attention_to_video,
    generation_probability,
    logit_lens,
    read_out,
)
from lmms_flow.trace.lens import layers_within
from tests.support import odd_models
from tests.support.models import FAMILIES, tiny
from tests.support.odd_models import LAYOUT, lively, text_model
from tests.support.readouts import hidden_states, own_logits

LETTERS = (12, [13, 14], 15)
FLOW = "video:question@2-3+video:last"


def probabilities(model: Any, states: Tensor) -> Tensor:
    """Of the letters, [row, option], softmax in fp32."""
    found = own_logits(model, states).float().softmax(-1)
    return torch.stack([found[:, 12], found[:, 13] + found[:, 14], found[:, 15]], -1)


def plain_loop(model: Any, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """The letters' probabilities by layer, without and with the final norm, [layer, option] each."""
    _, *states = hidden_states(model, inputs)
    norm = model.get_decoder().norm
    last = [each[-1:] for each in states]
    with torch.no_grad():
        normed = [norm(each) for each in last[:-1]] + last[-1:]  # the last is normed already
    return probabilities(model, torch.cat(last)).cpu(), probabilities(model, torch.cat(normed)).cpu()


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected.cpu(), rtol=1e-4, atol=1e-7)


ODD: dict[str, dict[str, Any]] = {"Cohere": {"logit_scale": 0.25}, "Granite": {"logits_scaling": 3.0}}


@pytest.mark.parametrize("name", [*FAMILIES, *ODD])
def test_generation_probability_is_that_of_a_loop_over_hidden_states(name: str) -> None:
    """Soft caps (Gemma 2) and scales (Cohere, Granite) of logits are the families' own."""
    if name in ODD:
        model, inputs, layout = text_model(name, **ODD[name]), odd_models.prompt(), LAYOUT
    else:
        model, make_inputs = tiny(name, attn_implementation="eager" if name == "gemma2" else "sdpa")
        prompt = make_inputs(frames=4)
        inputs, layout = prompt.tensors, prompt.layout
    found = generation_probability(model, inputs, layout, LETTERS)
    head, normed = plain_loop(model, inputs)
    close(found["generation_probability.head"], head)
    close(found["generation_probability.normed"], normed)
    assert not torch.allclose(head[:-1], normed[:-1], rtol=1e-2)
    with torch.no_grad():
        own = model(**inputs, logits_to_keep=1) if name != "video_llama_3" else model(**inputs)
    own = own.logits[0, -1].float().softmax(-1).cpu()
    for each in found.values():  # bit for bit what the model says itself
        assert torch.equal(each[-1], torch.stack([own[[12]].sum(), own[[13, 14]].sum(), own[[15]].sum()]))


def test_what_a_video_model_leaves_out_of_its_text_models_head() -> None:
    """Aya Vision's text model scales its logits; the video model's own forward does not."""
    text = transformers.Cohere2Config(**(odd_models.SIZES | {"logit_scale": 0.25}))
    vision = transformers.SiglipVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2, image_size=16, patch_size=4
    )  # fmt: skip
    config = transformers.AyaVisionConfig(text_config=text, vision_config=vision, image_token_id=5)
    model = lively(
        transformers.AyaVisionForConditionalGeneration._from_config(config, attn_implementation="sdpa")
    )
    found = generation_probability(model, odd_models.prompt(), LAYOUT, LETTERS)
    states = torch.stack([each[-1] for each in hidden_states(model, odd_models.prompt())[1:]])
    with torch.no_grad():
        logits = model.lm_head(states).softmax(-1)
    close(found["generation_probability.head"][:, 0], logits[:, 12])


@pytest.mark.parametrize("engine", ["dense", "sparse", "baseline"])
@pytest.mark.parametrize("family", ["llama", "qwen2_5_vl", "gemma2"])
def test_under_a_flow_the_states_are_those_of_the_cut_model(family: str, engine: str) -> None:
    model, make_inputs = tiny(family, attn_implementation="eager" if family == "gemma2" else "sdpa")
    prompt = make_inputs(frames=4)
    baseline = None
    if engine == "baseline":
        baseline = Baseline.for_flows([Flow.load(FLOW).bind(4).resolve(prompt.layout)])
        with baseline.recording(model), torch.no_grad():
            model.generate(**prompt.tensors, max_new_tokens=1, do_sample=False)
    with intervene(model, FLOW, prompt.layout, engine="dense"):
        head, normed = plain_loop(model, prompt.tensors)
    name = "sparse" if baseline else engine
    with intervene(model, FLOW, prompt.layout, engine=name, baseline=baseline):
        found = generation_probability(model, prompt.tensors, prompt.layout, LETTERS)
        words = logit_lens(model, prompt.tensors, prompt.layout, 1)
    close(found["generation_probability.head"], head)
    close(found["generation_probability.normed"], normed)
    plain = generation_probability(model, prompt.tensors, prompt.layout, LETTERS)
    assert not torch.allclose(plain["generation_probability.head"], head, rtol=1e-2)
    assert words["logit_lens.tokens"].shape == (4, prompt.layout.size("video"), 1)


def lens_loop(
    model: Any, inputs: dict[str, Tensor], layout: Layout, matrix: str, numbering: str, norm: str
) -> Any:
    """Probabilities of the whole vocabulary, [layer, video token, token]."""
    states = hidden_states(model, inputs)
    decoder = model.get_decoder()
    raw: list[Tensor] = []
    handle = decoder.layers[-1].register_forward_hook(
        lambda m, a, out: raw.append(out[0] if out.ndim == 3 else out)
    )
    hidden_states(model, inputs)
    handle.remove()
    last = states[-1] if norm == "last" or numbering == "paper" else raw[-1]
    entries = [*states[:-2], last] if numbering == "paper" else [*states[1:-1], last]
    (video,) = layout.groups["video"]
    found = []
    with torch.no_grad():
        for layer, each in enumerate(entries, 1):
            rows = each[video.start : video.stop]
            rows = (
                decoder.norm(rows)
                if norm == "all" and rows is not None and not (layer == len(entries) and numbering == "paper")
                else rows
            )
            logits = (
                own_logits(model, rows) if matrix == "head" else rows @ model.get_input_embeddings().weight.T
            )
            found.append(logits.float().softmax(-1))
    return torch.stack(found)


@pytest.mark.parametrize("norm", ["last", "all", "none"])
@pytest.mark.parametrize("numbering", ["output", "paper"])
@pytest.mark.parametrize("matrix", ["head", "input"])
@pytest.mark.parametrize("family", ["llama", "qwen2_vl", "gemma2"])
def test_the_lens_is_a_loop_over_hidden_states(
    family: str, matrix: str, numbering: str, norm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, make_inputs = tiny(family, attn_implementation="eager" if family == "gemma2" else "sdpa")
    prompt = make_inputs(frames=4)
    monkeypatch.setattr("lmms_flow.trace.lens.CHUNK_BYTES", 3 * 160 * 4)  # three rows of logits at a time
    rows: list[int] = []
    logits = Head.logits
    monkeypatch.setattr(Head, "logits", lambda self, states: rows.append(len(states)) or logits(self, states))
    given: dict[str, Any] = {"matrix": matrix, "numbering": numbering, "norm": norm}
    found = logit_lens(model, prompt.tensors, prompt.layout, 4, **given)
    expected = lens_loop(model, prompt.tensors, prompt.layout, matrix, numbering, norm).cpu()
    values, _ = expected.topk(4)
    close(found["logit_lens.probabilities"], values)
    tokens = found["logit_lens.tokens"]
    assert tokens.dtype == torch.int32
    close(
        expected.gather(-1, tokens.long()), values
    )  # tokens as probable as the top ones: ties aside, they are those
    assert max(rows, default=1) <= 3


def test_the_papers_numbering_is_a_layer_early() -> None:
    model, make_inputs = tiny("llama")
    prompt = make_inputs(frames=3)
    right = logit_lens(model, prompt.tensors, prompt.layout)
    early = logit_lens(model, prompt.tensors, prompt.layout, numbering="paper")
    for name in right:
        assert torch.equal(early[name][1:3], right[name][:2])  # the output of layer 3 of 4 is never read
        assert torch.equal(early[name][3], right[name][3])


def test_some_layers_of_the_lens() -> None:
    model, make_inputs = tiny("llama")
    prompt = make_inputs(frames=3)
    whole = logit_lens(model, prompt.tensors, prompt.layout)
    some = logit_lens(model, prompt.tensors, prompt.layout, layers=[4, 2])
    for name, each in some.items():
        assert torch.equal(each, whole[name][[3, 1]])


def test_several_read_outs_take_one_prefill() -> None:
    model, make_inputs = tiny("qwen2_5_vl", attn_implementation="sdpa")
    prompt = make_inputs(frames=4)
    asked = model, prompt.tensors, prompt.layout
    apart = generation_probability(*asked, LETTERS) | logit_lens(*asked) | attention_to_video(*asked)
    runs: list[int] = []
    handle = model.get_decoder().register_forward_hook(lambda *_: runs.append(1))
    together = read_out(*asked, GenerationProbability(LETTERS), LogitLens(), VideoAttention())
    handle.remove()
    assert len(runs) == 1
    assert together.keys() == apart.keys()
    for name, each in apart.items():
        assert torch.equal(together[name], each)
        assert each.device.type == "cpu"


def test_read_outs_of_an_answer_with_its_rows_are_those_of_its_prompt() -> None:
    """Decoding goes on behind the prefill: nothing of it gets into the other read-outs."""
    model, make_inputs = tiny("llama", attn_implementation="sdpa")
    prompt = make_inputs(frames=3)
    asked = model, prompt.tensors, prompt.layout
    alone = generation_probability(*asked, LETTERS) | logit_lens(*asked)
    beside = read_out(
        *asked, VideoAttention(["generated"], new_tokens=2), GenerationProbability(LETTERS), LogitLens()
    )
    for name, each in alone.items():
        close(beside[name].float(), each.float())
    assert beside["attention.generated"].shape[1] == 2


def test_letters_of_a_loaded_model_are_words() -> None:
    model = text_model()
    loaded = SimpleNamespace(model=model, tokens_of_letter={"A": [12], "B": [13, 14]}.__getitem__)
    found = generation_probability(loaded, odd_models.prompt(), LAYOUT, ["A", "B"])
    expected = generation_probability(model, odd_models.prompt(), LAYOUT, [12, [13, 14]])
    assert all(torch.equal(found[name], expected[name]) for name in found)


def louder(model: Any) -> Any:
    """A model that does something behind its output embeddings that no configuration tells."""
    forward = model.forward

    def loud(*args: Any, **kwargs: Any) -> Any:
        out = forward(*args, **kwargs)
        out.logits = out.logits * 1.5
        return out

    model.forward = loud
    return model


def normed_twice(model: Any) -> Any:
    """A decoder that does more to its last states than its norm."""
    model.model.register_forward_hook(
        lambda m, a, out: out.__setitem__("last_hidden_state", out[0] * 1.1) or out
    )
    return model


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (louder, "does something to its logits that is not known"),
        (normed_twice, "does more to its last states"),
    ],
)
@pytest.mark.parametrize("read", [partial(generation_probability, letters=[12]), logit_lens])
def test_a_head_that_is_not_known_is_refused(change: Any, message: str, read: Any) -> None:
    with pytest.raises(UnsupportedModelError, match=message) as caught:
        read(change(text_model()), odd_models.prompt(), LAYOUT)
    assert "\n" not in str(caught.value)


def test_a_model_without_a_head_says_nothing() -> None:
    with pytest.raises(UnsupportedModelError, match="no output embeddings"):
        generation_probability(text_model().model, odd_models.prompt(), LAYOUT, [12])


NO_VIDEO = Layout(27, {"system": range(26), "last": range(26, 27)})
MISTAKES: dict[str, tuple[Any, str]] = {
    "no letter": (lambda m, p: generation_probability(m, p, LAYOUT, []), "at least one option"),
    "a letter without tokens": (lambda m, p: generation_probability(m, p, LAYOUT, [[]]), r"tokens \[\] are not"),
    "a token too many": (lambda m, p: generation_probability(m, p, LAYOUT, [160]), "vocabulary of 160 tokens"),
    "a word for a bare model": (lambda m, p: generation_probability(m, p, LAYOUT, ["A"]), "give its token ids"),
    "matrix": (lambda m, p: logit_lens(m, p, LAYOUT, matrix="haed"), "did you mean 'head'"),  # type: ignore[arg-type]
    "numbering": (lambda m, p: logit_lens(m, p, LAYOUT, numbering="papre"), "did you mean 'paper'"),  # type: ignore[arg-type]
    "norm": (lambda m, p: logit_lens(m, p, LAYOUT, norm="lst"), "did you mean 'last'"),  # type: ignore[arg-type]
    "no token": (lambda m, p: logit_lens(m, p, LAYOUT, 0), "at least one token"),
    "too many tokens": (lambda m, p: logit_lens(m, p, LAYOUT, 161), "can't show 161 of 160"),
    "a layer": (lambda m, p: logit_lens(m, p, LAYOUT, layers=[5]), "layer 5 does not exist, the model has layers 1-4"),
    "no layer": (lambda m, p: logit_lens(m, p, LAYOUT, layers=[]), "at least one layer"),
    "no video": (lambda m, p: logit_lens(m, p, NO_VIDEO), "the prompt has none"),
    "no frames": (lambda m, p: attention_to_video(m, p, NO_VIDEO), "the layout has no frames"),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_clear_line(name: str) -> None:
    read, message = MISTAKES[name]
    with pytest.raises(FlowError, match=message) as caught:
        read(text_model(), odd_models.prompt())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("share", "count"), [(0.001, 1), (0.07, 2), (100.0, 4)])
def test_layers_for_a_share_of_a_prefill(share: float, count: int) -> None:
    """Evenly spread, and the last one is among them; no more products than the share of the layers' own."""
    model = text_model(num_key_value_heads=4)
    layers = layers_within(model, LAYOUT, share)
    assert layers == {1: [4], 2: [2, 4], 4: [1, 2, 3, 4]}[count]
    weights = sum(each.numel() for layer in model.model.layers for each in layer.parameters())
    products = len(layers) * LAYOUT.size("video") * model.lm_head.weight.numel()
    assert products <= share * LAYOUT.num_tokens * weights or count == 1


def test_half_precision_is_read_in_fp32() -> None:
    model = lively(text_model().bfloat16())
    found = generation_probability(model, odd_models.prompt(), LAYOUT, LETTERS)
    head, _ = plain_loop(model, odd_models.prompt())
    assert found["generation_probability.head"].dtype == torch.float32
    torch.testing.assert_close(found["generation_probability.head"], head, rtol=2e-2, atol=1e-4)
