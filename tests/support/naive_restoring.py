"""Restoration computed the plain way: one dense forward a number, in which single edges read another run's keys.

It shares no code with the engine. Attention is written out; an edge that is given back has its score from the clean
key, and its weight reads the clean value.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Set
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface, eager_mask

from lmms_flow.engine import decoder_layers, find_decoder

NAME = "restored_plainly"
Attend = Callable[..., tuple[Tensor, None]]


@torch.no_grad()
def naive_restoration(
    model: Any, clean: dict[str, Tensor], corrupt: dict[str, Tensor], edges: Tensor, layers: Set[int]
) -> Tensor:
    """The last logits [vocabulary] of the corrupt run with `edges` [query, key] given back in `layers` (from 0)."""
    kept: dict[int, tuple[Tensor, Tensor]] = {}
    with _attending(model, _keeping(model, kept)):
        model(**clean)
    with _attending(model, _giving_back(model, kept, edges, layers)):
        logits: Tensor = model(**corrupt).logits[0, -1]
    return logits


def _keeping(model: Any, kept: dict[int, tuple[Tensor, Tensor]]) -> Attend:
    attend = _giving_back(model, kept, torch.zeros(0), set())

    def keep(module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Any, **kwargs: Any) -> Any:
        kept[_place(model, module)] = key.clone(), value.clone()
        return attend(module, query, key, value, mask, **kwargs)

    return keep


def _giving_back(
    model: Any, kept: dict[int, tuple[Tensor, Tensor]], edges: Tensor, layers: Set[int]
) -> Attend:
    def attend(module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Any, **kwargs: Any) -> Any:
        def scores_with(keys: Tensor) -> Tensor:
            found = query @ keys.repeat_interleave(groups, 1).mT * kwargs["scaling"]
            cap = kwargs.get("softcap")
            return torch.tanh(found / cap) * cap if cap else found

        groups = query.shape[1] // key.shape[1]
        place = _place(model, module)
        scores = scores_with(key)
        if place in layers:
            given = edges.to(scores.device)
            scores = torch.where(given, scores_with(kept[place][0]), scores)
        causal = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
        scores = scores.masked_fill(~causal, -torch.inf) + (0 if mask is None else mask)
        weights = scores.softmax(-1)
        if place in layers:
            own, other = weights.masked_fill(given, 0), weights.masked_fill(~given, 0)
            out = own @ value.repeat_interleave(groups, 1) + other @ kept[place][1].repeat_interleave(
                groups, 1
            )
        else:
            out = weights @ value.repeat_interleave(groups, 1)
        return out.transpose(1, 2).contiguous(), None

    return attend


def _place(model: Any, module: Any) -> int:
    return [layer.self_attn for layer in decoder_layers(find_decoder(model))].index(module)


@contextmanager
def _attending(model: Any, attend: Attend) -> Iterator[None]:
    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, eager_mask)
    config: Any = find_decoder(model).config
    before = config._attn_implementation
    config._attn_implementation = NAME
    try:
        yield
    finally:
        config._attn_implementation = before
