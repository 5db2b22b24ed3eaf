"""A sweep in one walk against one masked forward for each knockout and window."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from lmms_flow.engine import Knockout, intervene, sweep
from lmms_flow.engine.hooks import Hook
from lmms_flow.engine.walks import Style, window_layers
from lmms_flow.flow import FlowError, Layout
from lmms_flow.flow.trace_settings import STYLES
from tests.support.layouts import random_layout
from tests.support.models import FAMILIES, text_prompt, tiny

TOLERANCE = 1e-5  # relative, fp32
KNOCKOUTS = (
    "video:question", "video:last", "question:last", "last:last", "cross_frame",
    "stem:last", "true_option:last", "false_options:last", "video:stem", "stem:true_option", "video:true_option",
)  # fmt: skip


def one_forward(
    model: Any, tensors: dict[str, Any], layout: Layout, knockout: str, layers: tuple[int, ...]
) -> Any:
    """The probabilities at the last position with one knockout in these layers, by the reference."""
    flow = "+".join(f"{knockout}@{layer}" for layer in layers) or "none"
    with intervene(model, flow, layout, engine="dense"), torch.no_grad():
        return model(**tensors, logits_to_keep=1).logits[0, -1].softmax(-1)


def largest_difference(
    model: Any, tensors: dict[str, Any], layout: Layout, result: Any, window: int, style: str
) -> float:
    worst = 0.0
    for k, knockout in enumerate(result.knockouts):
        for place, layer in enumerate(result.layers):
            expected = one_forward(
                model, tensors, layout, str(knockout), window_layers(layer, model_depth(model), window, style)
            )
            got = result.probabilities[k, place]
            worst = max(worst, abs(float(got / expected[result.answer]) - 1))
            assert int(expected.argmax()) == int(result.predictions[k, place])
            if result.candidates.shape[-1]:
                torch.testing.assert_close(
                    result.candidates[k, place], expected[[12, 13]].cpu(), rtol=1e-4, atol=1e-7
                )
    return worst


def model_depth(model: Any) -> int:
    return len(model.get_decoder().layers)


@pytest.mark.parametrize(
    ("style", "window", "layers"),
    [
        ("center", 9, (1, 2, 3, 4, 5)),  # the paper's: layer 1 is the centre of a shorter window
        ("center", 1, (1,)),
        ("inverse", 9, tuple(range(6, 33))),
        ("from_layer", 9, tuple(range(1, 33))),
        ("to_layer", 9, (1,)),
    ],
)
def test_windows_of_the_first_layer(style: str, window: int, layers: tuple[int, ...]) -> None:
    assert window_layers(1, 32, window, style) == layers


def test_windows_are_the_papers_in_the_middle_and_at_the_end() -> None:
    assert window_layers(16, 32, 9, "center") == tuple(range(12, 21))
    assert window_layers(16, 32, 4, "center") == (14, 15, 16, 17)  # an even window reaches one further down
    assert window_layers(32, 32, 9, "center") == (28, 29, 30, 31, 32)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_sweep_equals_one_forward_a_knockout(family: str, attention: str) -> None:
    model, make_inputs = tiny(family, attn_implementation="eager" if family == "gemma2" else attention)
    prompt = make_inputs(frames=3)
    result = sweep(model, prompt.tensors, prompt.layout, KNOCKOUTS, window=3, candidates=(12, 13))
    worst = largest_difference(model, prompt.tensors, prompt.layout, result, 3, "center")
    print(f"{family}, {attention}: largest relative difference {worst:.1e}")
    assert worst < TOLERANCE


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_visual_features_behind_the_last_layer(layers: int) -> None:
    """Where a model adds them at the places of its prompt behind the last layer too, no fork's rows may lie there."""
    model, make_inputs = tiny("qwen3_vl", attn_implementation="sdpa", layers=layers)
    prompt = make_inputs(frames=4)
    result = sweep(model, prompt.tensors, prompt.layout, KNOCKOUTS, window=1, candidates=[12, 13])
    worst = largest_difference(model, prompt.tensors, prompt.layout, result, 1, "center")
    print(f"{layers} layers: largest relative difference {worst:.1e}")
    assert worst < TOLERANCE


@pytest.mark.parametrize("style", STYLES)
def test_every_style_on_random_layouts(style: Style) -> None:
    model, _ = tiny("llama", attn_implementation="sdpa")
    for seed in range(4):
        layout = random_layout(seed + 100, empty=False)
        tokens = text_prompt(layout, seed)["input_ids"]
        knockouts = ["video:question", "question:last", "last:last", "tail:last", "system:video"]
        result = sweep(model, {"input_ids": tokens}, layout, knockouts, window=2, style=style)
        assert largest_difference(model, {"input_ids": tokens}, layout, result, 2, style) < TOLERANCE


def test_a_memory_budget_only_changes_the_number_of_walks(monkeypatch: pytest.MonkeyPatch) -> None:
    from lmms_flow.engine.fork import ForkWalk

    model, make_inputs = tiny("llama", attn_implementation="sdpa")
    prompt = make_inputs(frames=3)
    walks = []
    enter = ForkWalk.__enter__
    monkeypatch.setattr(ForkWalk, "__enter__", lambda self: walks.append(self) or enter(self))
    whole = sweep(model, prompt.tensors, prompt.layout, KNOCKOUTS, window=3)
    assert len(walks) == 1
    parts = sweep(model, prompt.tensors, prompt.layout, KNOCKOUTS, window=3, max_memory=20_000)
    assert len(walks) > 3
    torch.testing.assert_close(parts.probabilities, whole.probabilities, rtol=1e-5, atol=0)


def test_out_of_memory_is_tried_again_in_halves(monkeypatch: pytest.MonkeyPatch) -> None:
    from lmms_flow.engine.fork import ForkWalk

    model, make_inputs = tiny("llama", attn_implementation="sdpa")
    prompt = make_inputs(frames=3)
    whole = sweep(model, prompt.tensors, prompt.layout, KNOCKOUTS, window=3)
    enter = ForkWalk.__enter__

    def scarce(self: ForkWalk) -> ForkWalk:
        if len(self._forks) > 12:
            raise torch.cuda.OutOfMemoryError("made up")
        return enter(self)

    monkeypatch.setattr(ForkWalk, "__enter__", scarce)
    with pytest.warns(UserWarning, match="ran out of memory: its forks are run in smaller chunks"):
        halves = sweep(model, prompt.tensors, prompt.layout, KNOCKOUTS, window=3)
    torch.testing.assert_close(halves.probabilities, whole.probabilities, rtol=1e-5, atol=0)


def test_the_baseline_is_the_plain_model_and_changes_are_relative_to_it() -> None:
    model, make_inputs = tiny("llama", attn_implementation="sdpa")
    prompt = make_inputs(frames=3)
    result = sweep(model, prompt.tensors, prompt.layout, ["video:last", "cross_frame"], layers=[2, 4])
    with torch.no_grad():
        plain = model(**prompt.tensors, logits_to_keep=1).logits[0, -1].softmax(-1)
    assert result.answer == int(plain.argmax())
    assert result.baseline == pytest.approx(float(plain.max()), rel=1e-6)
    assert result.probabilities.shape == (2, 2)
    change = (result.probabilities[0, 1] / result.baseline - 1) * 100
    assert float(result.relative_change[0, 1]) == pytest.approx(float(change), rel=1e-5)


def test_the_model_is_untouched_afterwards() -> None:
    model, make_inputs = tiny("llama")
    prompt = make_inputs()
    before = model(**prompt.tensors).logits
    sweep(model, prompt.tensors, prompt.layout, ["video:last"])
    assert torch.equal(model(**prompt.tensors).logits, before)
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"knockouts": ["question:video"]}, "ever reads 'question'"),
        ({"knockouts": ["vido:last"]}, "did you mean 'video'"),
        ({"knockouts": []}, "at least one knockout"),
        ({"style": "centre"}, "did you mean 'center'"),
        ({"window": 0}, "at least one layer"),
        ({"layers": [5]}, "layer 5 does not exist, the model has layers 1-4"),
        (
            {"layout": Layout(2, {"video": range(1), "last": range(1, 2)})},
            "the prompt has 31 tokens, its layout 2",
        ),
        ({"knockouts": ["frame.9:last"]}, "this prompt has 4 frames"),
    ],
)
def test_a_mistake_is_one_clear_line(arguments: dict[str, Any], message: str) -> None:
    model, make_inputs = tiny("llama")
    prompt = make_inputs()
    given: dict[str, Any] = {"knockouts": [Knockout("video", "last")], "layout": prompt.layout} | arguments
    with pytest.raises(FlowError, match=message) as caught:
        sweep(model, prompt.tensors, **given)
    assert "\n" not in str(caught.value)


class InATuple(LlamaDecoderLayer):  # type: ignore[misc]
    """As decoder layers were until recently: what comes out lies in a tuple."""

    @functools.wraps(LlamaDecoderLayer.forward)
    def forward(self, hidden_states: Any, *args: Any, **kwargs: Any) -> Any:
        assert kwargs["position_ids"].shape[-1] == hidden_states.shape[-2]
        return (super().forward(hidden_states, *args, **kwargs),)


def test_layers_that_put_out_a_tuple_and_are_told_their_rows_positions() -> None:
    model, make_inputs = tiny("llama", attn_implementation="sdpa")
    prompt = make_inputs(frames=3)
    plain = sweep(model, prompt.tensors, prompt.layout, KNOCKOUTS, window=2)
    for layer in model.model.layers:
        layer.__class__ = InATuple
        layer.register_forward_hook(Hook(lambda module, args, output: output[0]))
    wrapped = sweep(model, prompt.tensors, prompt.layout, KNOCKOUTS, window=2)
    assert torch.equal(wrapped.probabilities, plain.probabilities)


def test_a_bar_is_shown_on_request_alone(capsys: pytest.CaptureFixture[str]) -> None:
    model, make_inputs = tiny("llama", attn_implementation="sdpa")
    prompt = make_inputs(frames=2)
    for asked in (False, True):
        sweep(model, prompt.tensors, prompt.layout, KNOCKOUTS, window=1, max_memory=20_000, progress=asked)
        assert ("sweep" in capsys.readouterr().err) is asked
