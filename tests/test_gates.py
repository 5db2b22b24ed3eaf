"""Gate gradients: their gates end where they should, and the derivatives are those of the gated model."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from lmms_flow.engine import UnsupportedModelError, decoder_layers, find_decoder, intervene, sweep
from lmms_flow.engine.gating import gated
from lmms_flow.engine.walks import window_layers
from lmms_flow.flow import FlowError
from lmms_flow.trace.gates import gate_gradients
from tests.support.models import FAMILIES, tiny

CLOSE = {"sdpa": 1e-9, "eager": 1e-5}  # transformers' eager attention takes its softmax in fp32
KNOCKOUTS = ("cross_frame", "video:question", "video:last", "question:last", "last:last", "stem:true_option")
H = 1e-3  # of a gate
SLOPE = (25 / 12, -4.0, 3.0, -4 / 3, 1 / 4)  # of the curve through five places, at its end, times H


@pytest.fixture
def norms_in_double(monkeypatch: pytest.MonkeyPatch) -> None:
    """Norms and angles compute in fp32 whatever the model is in; their rounding would drown small differences."""
    plain = torch.Tensor.to

    def to(self: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        narrows = self.dtype == torch.float64 and (*args, kwargs.get("dtype"))[0] == torch.float32
        return self if narrows else plain(self, *args, **kwargs)

    monkeypatch.setattr(torch.Tensor, "to", to)
    monkeypatch.setattr(torch.Tensor, "float", lambda self: to(self, torch.float32))


def in_double(family: str, attention: str = "sdpa") -> tuple[Any, dict[str, torch.Tensor], Any]:
    """A tiny model in fp64 and its prompt: rounding is out of the way of finite differences."""
    model, make_inputs = tiny(family, attn_implementation="eager" if family == "gemma2" else attention)
    prompt = make_inputs(frames=3)
    tensors = {name: t.double() if t.is_floating_point() else t for name, t in prompt.tensors.items()}
    return model.double(), tensors, prompt.layout


def log_probability(model: Any, tensors: Any, layout: Any, gates: torch.Tensor, answer: int) -> float:
    with gated(model, layout, KNOCKOUTS, gates), torch.no_grad():
        return float(model(**tensors).logits[0, -1].log_softmax(-1)[answer])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.usefixtures("norms_in_double")
def test_first_order_effects_equal_finite_differences_of_the_gated_model(family: str) -> None:
    model, tensors, layout = in_double(family)
    found = gate_gradients(model, tensors, layout, KNOCKOUTS, window=1)
    worst, largest = 0.0, float(found.effects.abs().max())
    for k in range(len(KNOCKOUTS)):
        layer = 1 + k % 4
        values = []
        for step in range(3):  # a parabola through three places, the gate open at its end
            gates = torch.ones(len(KNOCKOUTS), 4, dtype=torch.float64)
            gates[k, layer - 1] -= step * H
            values.append(log_probability(model, tensors, layout, gates, found.answer))
        slope = (3 * values[0] - 4 * values[1] + values[2]) / (2 * H)
        worst = max(worst, abs(slope + float(found.effects[k, layer - 1])))
    print(f"{family}: largest difference {worst / largest:.1e} of the largest effect {largest:.1e}")
    assert worst < 1e-4 * largest


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("family", ["qwen2", "gemma2", "qwen3_vl"])
def test_a_closed_gate_is_the_knockout_and_open_ones_change_nothing(family: str, attention: str) -> None:
    attention = "eager" if family == "gemma2" else attention
    model, tensors, layout = in_double(family, attention)
    with torch.no_grad():
        plain = model(**tensors).logits[0, -1]
    opened = torch.ones(len(KNOCKOUTS), 4, dtype=torch.float64)
    with gated(model, layout, KNOCKOUTS, opened), torch.no_grad():
        torch.testing.assert_close(model(**tensors).logits[0, -1], plain, rtol=0, atol=CLOSE[attention])
    for k, knockout in enumerate(KNOCKOUTS):
        closed = opened.clone()
        closed[k, 1:3] = 0
        with gated(model, layout, KNOCKOUTS, closed), torch.no_grad():
            got = model(**tensors).logits[0, -1]
        with intervene(model, f"{knockout}@2-3", layout, engine="dense"), torch.no_grad():
            expected = model(**tensors).logits[0, -1]
        torch.testing.assert_close(got, expected, rtol=0, atol=CLOSE[attention])


def test_integrated_effects_come_to_the_cut_itself() -> None:
    model, tensors, layout = in_double("qwen2")
    cuts = ("video:question", "question:last")
    exact = sweep(model, tensors, layout, cuts, window=3)
    wanted = exact.probabilities.double().log() - torch.tensor(exact.baseline).log()
    off = {
        steps: float(
            (gate_gradients(model, tensors, layout, cuts, window=3, steps=steps).effects - wanted).abs().max()
        )
        for steps in (1, 5, 10)
    }
    print(f"largest distance from the sweep by steps: {off}")
    assert off[10] < off[5] < off[1]
    assert off[10] < 1e-2 * float(wanted.abs().max())


def test_windows_add_up_to_first_order() -> None:
    model, make_inputs = tiny("llama", attn_implementation="sdpa")
    prompt = make_inputs()
    one = gate_gradients(model, prompt.tensors, prompt.layout, ["video:last"], window=1)
    three = gate_gradients(model, prompt.tensors, prompt.layout, ["video:last"], window=3, layers=(1, 4))
    assert three.layers == (1, 4)
    for place, layer in enumerate(three.layers):
        inside = [each - 1 for each in window_layers(layer, 4, 3, "center")]
        torch.testing.assert_close(three.effects[0, place], one.effects[0, inside].sum())


def test_probabilities_and_the_model_afterwards() -> None:
    model, make_inputs = tiny("llama", attn_implementation="sdpa")
    prompt = make_inputs()
    before = model(**prompt.tensors).logits.detach()
    logs = gate_gradients(model, prompt.tensors, prompt.layout, ["video:last"])
    plain = gate_gradients(model, prompt.tensors, prompt.layout, ["video:last"], read_out="probability")
    torch.testing.assert_close(plain.effects, logs.effects * logs.baseline, rtol=1e-4, atol=1e-9)
    assert torch.equal(model(**prompt.tensors).logits, before)
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    assert model.config._attn_implementation == "sdpa"


def test_layers_without_gates_run_as_they_are_and_closed_gates_are_not_passed_over() -> None:
    model, tensors, layout = in_double("qwen2")
    gates = torch.ones(1, 4, dtype=torch.float64)
    gates[0, 1:3] = 0.3
    gates.requires_grad_()
    found, slopes = [], []
    for layers in (None, (2, 3)):
        with gated(model, layout, ["video:last"], gates, layers):
            logits = model(**tensors).logits[0, -1]
        found.append(logits.detach())
        slopes.append(torch.autograd.grad(logits.max(), gates)[0])
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=CLOSE["sdpa"])
    torch.testing.assert_close(slopes[0][:, 1:3], slopes[1][:, 1:3], rtol=0, atol=CLOSE["sdpa"])
    assert bool((slopes[0] != 0).all())
    assert bool((slopes[1][:, [0, 3]] == 0).all()), "nothing is weighed there"
    for wrong in ([2], [2, 3, 9]):
        with (
            pytest.raises(FlowError, match="must be layers of 1-4, and all other gates open"),
            gated(model, layout, ["video:last"], gates, wrong),
        ):
            pass


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"read_out": "logit"}, "there is no read-out 'logit'"),
        ({"steps": 0}, "steps must be a number of steps, 1 or more, not 0"),
        ({"knockouts": []}, "for 0 knockouts"),
        ({"knockouts": ["vido:last"]}, "did you mean 'video'"),
        ({"layers": [9]}, "layer 9 does not exist"),
    ],
)
def test_a_mistake_is_one_clear_line(arguments: dict[str, Any], message: str) -> None:
    model, make_inputs = tiny("llama")
    prompt = make_inputs()
    with pytest.raises(FlowError, match=message) as caught:
        gate_gradients(model, prompt.tensors, prompt.layout, **({"knockouts": ["video:last"]} | arguments))
    assert "\n" not in str(caught.value)


def test_attention_that_does_more_than_is_known_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twice the scaling under the model's own function, and only there: open gates would not be full attention."""
    model, make_inputs = tiny("qwen2", attn_implementation="eager")
    prompt = make_inputs()
    module = __import__(type(model).__module__, fromlist=["x"])
    own = module.eager_attention_forward
    monkeypatch.setattr(
        module, "eager_attention_forward", lambda *args, scaling, **kw: own(*args, scaling=2 * scaling, **kw)
    )
    assert len(decoder_layers(find_decoder(model))) == 4
    with pytest.raises(UnsupportedModelError, match="with every gate open its logits are off by"):
        gate_gradients(model, prompt.tensors, prompt.layout, ["video:last"])


def test_attention_that_is_exchanged_after_a_first_call_is_compared_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, make_inputs = tiny("qwen2", attn_implementation="eager")
    prompt = make_inputs()
    gate_gradients(model, prompt.tensors, prompt.layout, ["video:last"])
    module = __import__(type(model).__module__, fromlist=["x"])
    own = module.eager_attention_forward
    monkeypatch.setattr(
        module, "eager_attention_forward", lambda *args, scaling, **kw: own(*args, scaling=2 * scaling, **kw)
    )
    with pytest.raises(UnsupportedModelError, match="with every gate open its logits are off by"):
        gate_gradients(model, prompt.tensors, prompt.layout, ["video:last"])


def test_relative_changes_lie_between_nothing_left_and_a_certain_answer() -> None:
    """In the sweep's own unit; both read-outs tell the same of a small effect."""
    model, make_inputs = tiny("llama", attn_implementation="sdpa")
    prompt = make_inputs()
    asked = model, prompt.tensors, prompt.layout, KNOCKOUTS
    logs, plain = (
        gate_gradients(*asked, window=3, read_out=each) for each in ("log_probability", "probability")
    )
    most = 100 * (1 - logs.baseline) / logs.baseline
    for found in (logs, plain):
        assert float(found.relative_change.min()) >= -100
        assert float(found.relative_change.max()) <= most + 1e-6
    small = logs.effects.abs() < 1e-2
    assert bool(small.any())
    torch.testing.assert_close(
        logs.relative_change[small], plain.relative_change[small], rtol=2e-2, atol=1e-4
    )
