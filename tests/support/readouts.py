"""Read-outs the plain way: everything that a model gives out, looped over."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lmms_flow.engine import find_decoder
from lmms_flow.flow import Layout
from tests.support.models import tiny


def both(family: str) -> tuple[Any, Any, Any]:
    """A family's model with eager attention and the same with SDPA (if it has it), and its maker of prompts."""
    eager, make_inputs = tiny(family, attn_implementation="eager")
    fast, _ = (eager, None) if family == "gemma2" else tiny(family, attn_implementation="sdpa")
    return eager, fast, make_inputs


@torch.no_grad()
def eager_attention(model: Any, tensors: dict[str, Tensor]) -> Tensor:
    """All weights, [layer, head, query, key]."""
    return torch.stack([each[0] for each in model(**tensors, output_attentions=True).attentions])


def rows_of(layout: Layout, group: str) -> list[int]:
    return [token for span in layout.span(group) for token in span]


def to_frames(weights: Tensor, layout: Layout) -> Tensor:
    """Sums over each frame's tokens of [..., key]."""
    return torch.stack([weights[..., frame.start : frame.stop].sum(-1) for frame in layout.frames], -1)


@torch.no_grad()
def hidden_states(model: Any, tensors: dict[str, Tensor]) -> list[Tensor]:
    """What enters layer 1, and what leaves each layer, the last one behind the final norm: [token, width] each."""
    return [each[0] for each in model(**tensors, output_hidden_states=True).hidden_states]


@torch.no_grad()
def own_logits(model: Any, states: Tensor) -> Tensor:
    """Logits of states [row, width], with what the families of these tests do to theirs, written out."""
    config: Any = find_decoder(model).config
    logits: Tensor = model.get_output_embeddings()(states)
    if config.model_type == "cohere":
        logits = logits * config.logit_scale
    if config.model_type == "granite":
        logits = logits / config.logits_scaling
    if config.model_type == "gemma2":
        logits = config.final_logit_softcapping * torch.tanh(logits / config.final_logit_softcapping)
    return logits
