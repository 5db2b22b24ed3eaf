"""Which prompt token each row and column of a forward is, with padding and generated tokens told apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

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


def attended_tokens(call: ModelCall, tokens: Tensor, past: int) -> Tensor:
    """The token of each column of a decoder's call, [batch, key]; -1 for padding. On the host.

    Raises FlowError where the call has a mask of another kind.
    """
    batch, num_queries = tokens.shape[:2]
    mask = call.get("mask")
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


def spread(of_prompts: Sequence[T], batch: int) -> list[T]:
    """One entry for each sample of the batch; beams and several returned sequences share their prompt's."""
    if batch % len(of_prompts):
        raise FlowError(f"{len(of_prompts)} layouts were given for a batch of {batch}")
    return [one for one in of_prompts for _ in range(batch // len(of_prompts))]
