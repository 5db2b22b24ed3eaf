"""Which prompt token each row and column of a forward is, with padding and generated tokens told apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from ..flow import FlowError, Layout
from .layer_call import ModelCall

T = TypeVar("T")


@dataclass(frozen=True)
class Positions:
    """One forward's rows and columns. Tokens count from 0 in each sample, padding left out; padding has -1.

    `queries` [batch, query], `keys` [batch, key]; `past` columns come from the key/value cache.
    """

    queries: Tensor
    keys: Tensor
    past: int


def read_positions(call: ModelCall, layouts: Sequence[Layout], continuation: Sequence[int] = ()) -> Positions:
    """Reads them off a decoder's call. Raises FlowError where the prompt does not have the layouts' lengths.

    `continuation` says for each layout how many tokens follow the prompt in the same forward (teacher forcing).
    """
    tokens = call.tokens
    if tokens is None:
        raise FlowError("the decoder was called without input_ids and inputs_embeds")
    batch, num_queries = tokens.shape[:2]
    past = int(call.cache.get_seq_length()) if call.cache is not None else 0
    mask = call.get("mask")
    if mask is None:
        mask = torch.ones(batch, past + num_queries, dtype=torch.long, device=tokens.device)
    if not isinstance(mask, Tensor) or mask.ndim != 2 or mask.shape[1] != past + num_queries:
        raise FlowError(
            "intervene needs the model's attention_mask as [batch, token] or none at all, "
            "and a dynamic key/value cache"
        )
    attended = mask.to(torch.long)
    keys = torch.where(attended.bool(), attended.cumsum(-1) - 1, -1)
    following = spread(continuation or [0] * len(layouts), batch)
    _check_lengths(attended.sum(-1).tolist(), spread(layouts, batch), following, decoding=past > 0)
    return Positions(keys[:, past:], keys, past)


def spread(of_prompts: Sequence[T], batch: int) -> list[T]:
    """One entry for each sample of the batch; beams and several returned sequences share their prompt's."""
    if batch % len(of_prompts):
        raise FlowError(f"{len(of_prompts)} layouts were given for a batch of {batch}")
    return [one for one in of_prompts for _ in range(batch // len(of_prompts))]


def _check_lengths(
    lengths: Sequence[int], layouts: Sequence[Layout], following: Sequence[int], decoding: bool
) -> None:
    for sample, (length, layout, after) in enumerate(zip(lengths, layouts, following, strict=True)):
        whole = layout.num_tokens + after
        if length <= whole if decoding else length != whole:
            raise FlowError(
                f"sample {sample} of the batch has a prompt of {length} tokens, its layout has {layout.num_tokens}"
                + (f" and {after} are to follow it" if after else "")
                + (" (a prompt is to be read in one piece)" if decoding else "")
            )
