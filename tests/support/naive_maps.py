"""A flow map computed the plain way: one masked forward for each knockout and window, no engine of this package.

The masks are written by hand from the groups of a prompt, and put in front of the attention of the layers that are cut.
The windows are those of the paper's code (`--window_style`), counted from 0 as it counts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tests.support.models import Prompt


@dataclass(frozen=True)
class NaiveMap:
    """[knockout, centre] of the answer's probability and the most probable token, [.., option] of some tokens."""

    baseline: float
    answer: int
    probability: Tensor
    prediction: Tensor
    options: Tensor


def window(centre: int, num_layers: int, width: int, style: str) -> set[int]:
    """The layers, from 0, in which the paper's code cuts for a centre."""
    inside = range(max(0, centre - width // 2), min(num_layers, centre + math.ceil(width / 2)))
    return {
        "center": set(inside),
        "inverse": set(range(num_layers)) - set(inside),
        "from_layer": set(range(centre, num_layers)),  # "top_down"
        "to_layer": set(range(centre + 1)),  # "bottom_up"
    }[style]


@torch.no_grad()
def naive_map(
    model: Any, prompt: Prompt, knockouts: Sequence[str], width: int, style: str, options: Sequence[int]
) -> NaiveMap:
    """The map of every layer; all knockouts and centres in one batch, each with masks of its own in every layer."""
    layers = model.get_decoder().layers
    asked = [(knockout, centre) for knockout in knockouts for centre in range(len(layers))]
    cut = [window(centre, len(layers), width, style) for _, centre in asked]
    keep = {knockout: kept(prompt, knockout) for knockout in knockouts}
    plain = torch.ones(prompt.num_tokens, prompt.num_tokens, dtype=torch.bool).tril()
    handles = []
    for number, layer in enumerate(layers):
        masks = torch.stack(
            [
                plain,
                *(keep[k] if number in where else plain for (k, _), where in zip(asked, cut, strict=True)),
            ]
        )
        handles.append(layer.register_forward_pre_hook(_with_mask(masks[:, None]), with_kwargs=True))
    try:
        tokens = prompt.tensors["input_ids"].expand(len(asked) + 1, -1)
        logits = model(input_ids=tokens, use_cache=False).logits[:, -1].float()
    finally:
        for handle in handles:
            handle.remove()
    probabilities = logits.softmax(-1)
    answer = int(probabilities[0].argmax())
    grid = (len(knockouts), len(layers))
    return NaiveMap(
        float(probabilities[0, answer]),
        answer,
        probabilities[1:, answer].reshape(grid),
        probabilities[1:].argmax(-1).reshape(grid),
        probabilities[1:][:, list(options)].reshape(*grid, len(options)),
    )


def kept(prompt: Prompt, knockout: str) -> Tensor:
    """What each token reads under a knockout, bool [query, key]."""
    keep = torch.ones(prompt.num_tokens, prompt.num_tokens, dtype=torch.bool).tril()
    if knockout == "cross_frame":
        for frame in prompt.frames:
            keep[frame.start : frame.stop, prompt.frames[0].start : frame.start] = False
        return keep
    source, target = (prompt.groups[name] for name in knockout.split(":"))
    keep[target.start : target.stop, source.start : source.stop] = False
    return keep


def _with_mask(keep: Tensor) -> Any:
    bias = torch.zeros(keep.shape).masked_fill(~keep, torch.finfo(torch.float32).min)

    def before_layer(layer: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        return args, kwargs | {"attention_mask": bias}

    return before_layer
