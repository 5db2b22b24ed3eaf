"""From hidden states to logits, for states of any layer: the model's own final norm and output embeddings.

What a family does to its logits behind them (a scale, a soft cap) is read off its configuration, as far as its forward
asks for it, and the whole is held against the model's own logits of the prompt: a head that does something else is
refused.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UnsupportedModelError
from .decoder import decoder_layers, find_decoder, with_base

# What transformers' configurations call it. Of each kind a family has one at the most.
SOFT_CAPS = ("final_logit_softcapping", "output_logit_soft_cap", "logits_soft_cap")
FACTORS = ("logit_scale", "lm_head_multiplier")
DIVISORS = ("logits_scaling",)
NORM_NAMES = ("norm", "final_layernorm", "final_layer_norm", "final_norm", "ln_f", "norm_f")
# How far our logits may lie from the model's, relative to the largest: the same products over other numbers of rows.
TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-4}
ROUGH = 5e-2  # in half precision


@dataclass(frozen=True, eq=False)
class Head:
    """A model's way from states [row, width] to logits."""

    embeddings: nn.Module
    norm: nn.Module | None  # None: no module of the decoder's own norms its last states
    factor: float
    soft_cap: float | None
    name: str

    @classmethod
    def of(cls, model: nn.Module) -> Head:
        """Raises UnsupportedModelError for a model without output embeddings."""
        embeddings: Any = getattr(model, "get_output_embeddings", lambda: None)()
        name = type(model).__name__
        if not isinstance(embeddings, nn.Module):
            raise UnsupportedModelError(
                f"{name} has no output embeddings: it says nothing about the next token"
            )
        decoder = find_decoder(model)
        asked = _asked(model, decoder)
        factor = _one(asked, FACTORS) or 1.0
        divisor = _one(asked, DIVISORS)
        return cls(embeddings, final_norm(decoder), factor / (divisor or 1.0), _one(asked, SOFT_CAPS), name)

    @property
    def weight(self) -> Tensor:
        """The output embeddings, [token, width]."""
        weight: Tensor = self.embeddings.weight  # type: ignore[assignment]
        return weight

    def logits(self, states: Tensor) -> Tensor:
        """Logits in fp32 of states [row, width] as they are: [row, vocabulary]."""
        return self.own_logits(states).float()

    def own_logits(self, states: Tensor) -> Tensor:
        """The same in the model's own precision."""
        logits: Tensor = self.embeddings(states.to(self.weight.device))
        if self.factor != 1.0:
            logits = logits * self.factor
        if self.soft_cap is not None:
            logits = torch.tanh(logits / self.soft_cap) * self.soft_cap
        return logits

    def normed(self, states: Tensor) -> Tensor:
        """States [row, width] behind the final norm. Raises UnsupportedModelError where there is none."""
        if self.norm is None:
            raise UnsupportedModelError(
                f"{self.name} has no final norm that is known here: states of earlier layers can't be put through it"
            )
        normed: Tensor = self.norm(states)
        return normed

    def check(self, last: Tensor, states: Tensor, logits: Tensor) -> None:
        """Raises UnsupportedModelError where this is not what the model does to its last token.

        Args:
            last: what the last layer gave, [width].
            states: what the decoder made of it, [width].
            logits: what the model said, [vocabulary].
        """
        ours = self.logits(states[None])[0]
        if not _agree(ours, logits.to(ours.device), states.dtype):
            raise UnsupportedModelError(
                f"{self.name} does something to its logits that is not known here: they differ from those of its "
                "output embeddings, and so would all that is read out of its layers"
            )
        if self.norm is not None and not _agree(self.norm(last[None])[0], states, states.dtype):
            raise UnsupportedModelError(
                f"{self.name} does more to its last states than its final norm does: states of earlier layers can't be "
                "put through it"
            )


def final_norm(decoder: nn.Module) -> nn.Module | None:
    """The module by which a decoder norms its last states; None where none of its own is known as such."""
    layers = set(decoder_layers(decoder))
    found = {
        name: part
        for name, part in decoder.named_children()
        if "norm" in type(part).__name__.lower() and part not in layers
    }
    if len(found) == 1:
        return next(iter(found.values()))
    return next((found[name] for name in NORM_NAMES if name in found), None)


def _asked(model: nn.Module, decoder: nn.Module) -> dict[str, Any]:
    """What the decoder's configuration says of logits, as far as the model's forward asks for it.

    A video model may leave out what its text model does (Aya Vision).
    """
    forward: Any = inspect.unwrap(type(with_base(model)[-1]).forward)
    config = getattr(decoder, "config", None)
    names = set(SOFT_CAPS + FACTORS + DIVISORS).intersection(forward.__code__.co_names)
    return {name: value for name in names if (value := getattr(config, name, None)) is not None}


def _one(asked: dict[str, Any], names: tuple[str, ...]) -> float | None:
    return next((float(asked[name]) for name in names if name in asked), None)


def _agree(ours: Tensor, theirs: Tensor, kind: torch.dtype) -> bool:
    difference = (ours.float() - theirs.float().to(ours.device)).abs().max()
    return bool(difference <= TOLERANCE.get(kind, ROUGH) * theirs.float().abs().max())
