"""Gate gradients: the effect of every cut on the answer, to first order, of all knockouts in all layers at once.

A knockout's gate in a layer is 1 where its edges are left alone and 0 where they are cut (`engine/gating.py`). The
derivative of the answer's log-probability by the gate, with its sign turned, is the first-order effect of the cut:
what the cut changes in its layer is exact, what later layers make of it is taken to be linear. One forward and one
backward serve all knockouts in all layers. Integrated, each window's cut is followed along its own way from open to
closed gates, and the derivatives on it are averaged: with enough steps that is the cut itself, at a price of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn

from ..engine import decoder_layers, find_decoder
from ..engine.decoder import module_of
from ..engine.gating import gated
from ..engine.layer_call import keeping
from ..engine.one_prompt import check_prompt, only_the_prompt
from ..engine.proof import layers_now
from ..engine.walks import Style, as_knockout, check_layers, window_layers
from ..errors import FlowError, UnsupportedModelError, nearest
from ..flow import Knockout, Layout

READ_OUTS = ("log_probability", "probability")
# How far the gated model may lie from the plain one while every gate is open, relative to the largest logit.
OPEN_TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-4}
HALF_TOLERANCE = 5e-2

_agreed: WeakKeyDictionary[nn.Module, Any] = WeakKeyDictionary()  # decoder -> the layers that were compared


@dataclass(frozen=True)
class GateGradients:
    """What cuts would change of one prompt's answer. Layers count from 1.

    `effects` float64 [knockout, layer]: of the knockout in the window of that layer, as a sweep cuts it. `answer` is
    the baseline's answer token, `baseline` its probability; `read_out` says of what the effects are.
    """

    knockouts: tuple[Knockout, ...]
    layers: tuple[int, ...]
    effects: Tensor
    answer: int
    baseline: float
    read_out: str
    steps: int

    @property
    def relative_change(self) -> Tensor:
        """What the effects make of the answer's probability, in per cent as a sweep tells it, [knockout, layer].

        Between -100 and what a probability of 1 would be: an effect that is taken to be linear knows no such bounds.
        """
        share = self.effects.expm1() if self.read_out == "log_probability" else self.effects / self.baseline
        return 100 * share.clamp(-1, (1 - self.baseline) / self.baseline)


def gate_gradients(
    model: Any,
    inputs: Mapping[str, Any],
    layout: Layout,
    knockouts: Sequence[Knockout | str],
    *,
    window: int = 9,
    style: Style = "center",
    layers: Sequence[int] | None = None,
    steps: int = 1,
    read_out: str = "log_probability",
) -> GateGradients:
    """The effect of every cut on the answer, to first order or integrated along the gates' way.

    Args:
        model: a decoder or VideoLLM of transformers, or what `lmms_flow.load` gave.
        inputs: the model's, for one prompt without padding.
        layout: of the prompt.
        knockouts: rules without layers, such as "video:question".
        window: how many layers are cut at once.
        style: which layers are cut for a layer, as for `sweep`.
        layers: limits the windows' layers, from 1; all by default.
        steps: 1 for the derivative under full attention, in which the layers of a window add up; more for the mean at
            so many places on the way of each knockout and window, a forward and a backward for each of them.
        read_out: "log_probability" or "probability" of the baseline's answer token.

    Raises:
        FlowError: an argument or the prompt does not fit.
        UnsupportedModelError: the model's attention can't be weighed.
    """
    if read_out not in READ_OUTS:
        raise FlowError(
            f"there is no read-out {read_out!r}{nearest(read_out, READ_OUTS)} (read-outs: {', '.join(READ_OUTS)})"
        )
    if not isinstance(steps, int) or isinstance(steps, bool) or steps < 1:
        raise FlowError(f"steps must be a number of steps, 1 or more, not {steps!r}")
    module = module_of(model)
    inputs = only_the_prompt(inputs, "a gate gradient")
    check_prompt(inputs, layout, "a gate gradient")
    cuts, depth = tuple(map(as_knockout, knockouts)), len(decoder_layers(find_decoder(module)))
    centres = check_layers(depth, window, style, layers)
    windows = [[n - 1 for n in window_layers(layer, depth, window, style)] for layer in centres]
    with _frozen(module):
        baseline = _plain(module, inputs, layout)
        answer = int(baseline.argmax())
        read = partial(_derivatives, module, inputs, layout, answer=answer, read_out=read_out)
        if steps == 1:
            found = read(cuts, _gates(module, len(cuts)))
            found = torch.stack([found[:, each].sum(-1) for each in windows], dim=1)
        else:
            found = torch.stack(
                [torch.stack([_along(read, cut, each, steps, module) for each in windows]) for cut in cuts]
            )
    return GateGradients(cuts, centres, -found, answer, float(baseline.softmax(-1)[answer]), read_out, steps)


def _along(read: Any, cut: Knockout, layers: list[int], steps: int, module: nn.Module) -> Tensor:
    """The integral of the derivative on the way of one knockout in these layers (from 0), which close together."""
    total = torch.zeros((), dtype=torch.float64)
    for at, weight in _places(steps):
        gates = _gates(module, 1)
        gates[0, layers] = at
        total = total + weight * read((cut,), gates, layers)[0, layers].sum()
    return total


def _places(steps: int) -> list[tuple[float, float]]:
    """Where on the way between open and closed gates the derivative is taken, and its weight (Gauss-Legendre)."""
    nodes, weights = np.polynomial.legendre.leggauss(steps)
    return [(float(1 - node) / 2, float(weight) / 2) for node, weight in zip(nodes, weights, strict=True)]


def _derivatives(
    module: nn.Module,
    inputs: Mapping[str, Any],
    layout: Layout,
    cuts: tuple[Knockout, ...],
    gates: Tensor,
    layers: Sequence[int] | None = None,
    *,
    answer: int,
    read_out: str,
) -> Tensor:
    """Of the answer by the gates of these knockouts where they stand, [knockout, layer]; in these layers (from 0)."""
    gates = gates.requires_grad_()
    within = None if layers is None else [layer + 1 for layer in layers]
    with torch.enable_grad(), gated(module, layout, cuts, gates, within):
        score = _logits(module, inputs).log_softmax(-1)[answer]
        (found,) = torch.autograd.grad(score if read_out == "log_probability" else score.exp(), gates)
    return found.double().cpu()


def _gates(module: nn.Module, knockouts: int) -> Tensor:
    """Open ones, [knockout, layer]."""
    parameter = next(module.parameters())
    dtype = torch.float64 if parameter.dtype == torch.float64 else torch.float32
    depth = len(decoder_layers(find_decoder(module)))
    return torch.ones(knockouts, depth, dtype=dtype, device=parameter.device)


def _logits(module: nn.Module, inputs: Mapping[str, Any]) -> Tensor:
    out: Any = module(**inputs, **keeping(module, 1), use_cache=False)
    logits: Tensor = out.logits[0, -1]
    return logits if logits.dtype == torch.float64 else logits.float()


def _plain(module: nn.Module, inputs: Mapping[str, Any], layout: Layout) -> Tensor:
    """The logits under full attention. The first time, they are held against those of open gates."""
    with torch.no_grad():
        plain = _logits(module, inputs)
        decoder = find_decoder(module)
        layers = layers_now(decoder)
        if _agreed.get(decoder) == layers:
            return plain
        with gated(module, layout, ["last:last"], _gates(module, 1)):
            opened = _logits(module, inputs)
    off = float((opened - plain).abs().max() / plain.abs().max())
    allowed = OPEN_TOLERANCE.get(next(module.parameters()).dtype, HALF_TOLERANCE)
    if not off <= allowed:
        raise UnsupportedModelError(
            f"{type(module).__name__}: with every gate open its logits are off by {off:.1e} of the largest, so its "
            "attention does more than is known here and gate gradients would be wrong"
        )
    _agreed[decoder] = layers
    return plain


@contextmanager
def _frozen(module: nn.Module) -> Iterator[None]:
    """Inside the block no weight asks for a gradient, so that nothing is kept for one."""
    asking = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for parameter in asking:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in asking:
            parameter.requires_grad_(True)
