"""Which prompt token each row and column of a forward is, with padding and generated tokens told apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from ..errors import FlowError
from .layer_call import ModelCall

T = TypeVar("T")


@dataclass(frozen=True)
class Positions:
    """One forward's rows and columns. Tokens count from 0 in each sample, padding left out; padding has -1.

    `queries` [batch, query], `keys` [batch, key], on the host: they are read back once a forward, and not again.
    `past` columns come from the key/value cache.
    """

    queries: Tensor
    keys: Tensor
    past: int


def visible(mask: Tensor) -> Tensor:
    """Which edges a mask of the model's own leaves, bool."""
    return mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min / 2


def attended_tokens(call: ModelCall, tokens: Tensor, past: int, own_masks: bool = False) -> Tensor:
    """The token of each column of a decoder's call, [batch, key]; -1 for padding. On the host.

    Args:
        call: of the decoder.
        tokens: its ids or embeddings, [batch, query, ...].
        past: columns that its cache holds.
        own_masks: whether the model is known to make masks [batch, 1, query, key] above its decoder.

    Raises:
        FlowError: the call has a mask of another kind.
    """
    batch, num_queries = tokens.shape[:2]
    mask = call.get("mask")
    if own_masks and mask is not None and getattr(mask, "ndim", 4) == 4:
        mask = _columns_seen(mask, past + num_queries)
    if mask is None:
        return torch.arange(past + num_queries).expand(batch, -1)
    if not isinstance(mask, Tensor) or mask.ndim != 2:
        kind = (
            f"a tensor of {mask.ndim} dimensions" if isinstance(mask, Tensor) else f"a {type(mask).__name__}"
        )
        raise FlowError(
            f"the decoder's attention_mask is {kind}, and flows need it as [batch, token] or none at all: the caller "
            "gave it so, or the model makes its own mask above its decoder, such as one for image tokens that read "
            "one another in both directions"
        )
    if mask.shape != (batch, past + num_queries):
        raise FlowError(
            f"the attention_mask is {list(mask.shape)}, for {batch} samples of {past} cached and {num_queries} new "
            "tokens (flows need a dynamic key/value cache)"
        )
    attended = mask.to("cpu", torch.long)
    return torch.where(attended.bool(), attended.cumsum(-1) - 1, -1)


def _columns_seen(given: Any, num_keys: int) -> Tensor | None:
    """Which columns some row reads, [batch, key], in masks [batch, 1, query, key]; None where there is none."""
    masks = given.values() if isinstance(given, Mapping) else [given]
    whole = [mask for mask in masks if isinstance(mask, Tensor) and mask.shape[-1] == num_keys]
    if not whole:
        return None
    return torch.stack([visible(mask)[:, 0].any(-2) for mask in whole]).any(0)


def spread(of_prompts: Sequence[T], batch: int) -> list[T]:
    """One entry for each sample of the batch; beams and several returned sequences share their prompt's."""
    if batch % len(of_prompts):
        raise FlowError(f"{len(of_prompts)} layouts were given for a batch of {batch}")
    return [one for one in of_prompts for _ in range(batch // len(of_prompts))]
