"""Attention by strips: a mask made of rectangles is run as a few plain attentions over slices of the sequence.

A masked kernel computes every pair and throws the cut ones away. A strip is a run of query rows that read the same keys
before them and one another causally: its keys are sliced out, and what is left needs no mask or a small one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from ..flow import Blocks
from ..flow.layout import merge
from .decoder import decoder_layers

NAME = "lmms_flow_sdpa"


@dataclass(frozen=True)
class Strip:
    """Query rows `rows` read the rows `before` whole, and one another causally where `reads_itself`."""

    rows: range
    before: tuple[range, ...]
    reads_itself: bool

    @property
    def is_causal(self) -> bool:
        """Whether it is plain causal attention over its own rows."""
        return self.reads_itself and not self.before


@dataclass(frozen=True)
class Strips:
    """One layer's attention in strips, in the place of its mask."""

    strips: tuple[Strip, ...]

    @property
    def is_causal(self) -> bool:
        """Whether the whole layer is plain causal."""
        return len(self.strips) == 1 and self.strips[0].is_causal


def strips_of(blocks: Blocks, entering: Iterable[int]) -> Strips:
    """The strips of one layer, for the segments that enter it."""
    order = sorted(entering)
    members = sum(1 << s for s in order)
    place: dict[int, range] = {}
    end = 0
    for s in order:
        place[s] = range(end, end + len(blocks.segments[s]))
        end = place[s].stop
    found: list[Strip] = []
    at = 0
    while at < len(order):
        first = order[at]
        before = blocks.kept[first] & members & ~(1 << first)
        stop = at + 1
        if blocks.reads(first, first):
            while stop < len(order) and _joins(blocks, order[at : stop + 1], before, members):
                stop += 1
        else:  # rows that read the same keys and not one another
            while stop < len(order) and blocks.kept[order[stop]] & members == before:
                stop += 1
        keys = merge(place[s] for s in order if before >> s & 1)
        rows = range(place[first].start, place[order[stop - 1]].stop)
        found.append(Strip(rows, keys, blocks.reads(first, first)))
        at = stop
    return Strips(tuple(found))


def _joins(blocks: Blocks, strip: list[int], before: int, members: int) -> bool:
    """Whether the last of these segments reads what the strip reads before itself, the whole strip, and itself."""
    wanted = before | sum(1 << s for s in strip)
    return blocks.kept[strip[-1]] & members == wanted


@lru_cache(maxsize=64)
def _mask(before: int, rows: int, device: torch.device) -> Tensor:
    """[row, key]: all keys before, and the rows themselves causally."""
    return torch.ones(rows, before + rows, dtype=torch.bool, device=device).tril(before)


def strip_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, **kwargs: Any
) -> tuple[Tensor, None]:
    """transformers' SDPA attention, which also takes `Strips` for a mask. [batch, head, row, width] each."""
    if not isinstance(attention_mask, Strips):
        out, _ = sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
        return out, None
    kwargs.pop("is_causal", None)
    parts = []
    for strip in attention_mask.strips:
        spans = (*strip.before, strip.rows) if strip.reads_itself else strip.before
        keys, values = (_slices(states, merge(spans)) for states in (key, value))
        rows = query[:, :, strip.rows.start : strip.rows.stop]
        before = sum(map(len, strip.before))
        needs_mask = before > 0 and strip.reads_itself and len(strip.rows) > 1
        mask = _mask(before, len(strip.rows), query.device)[None, None] if needs_mask else None
        out, _ = sdpa_attention_forward(module, rows, keys, values, mask, is_causal=strip.is_causal, **kwargs)
        parts.append(out)
    return torch.cat(parts, dim=1), None


def _slices(states: Tensor, spans: tuple[range, ...]) -> Tensor:
    parts = [states[:, :, span.start : span.stop] for span in spans]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)


@contextmanager
def strips_in(decoder: nn.Module) -> Iterator[bool]:
    """Inside the block the decoder's attention takes `Strips`; yields whether it does (it must be an `sdpa` one)."""
    config: Any = getattr(decoder, "config", None)
    shared = all(getattr(layer.self_attn, "config", None) is config for layer in decoder_layers(decoder))
    if config is None or not shared or config._attn_implementation != "sdpa":
        yield False
        return
    AttentionInterface.register(NAME, strip_attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    config._attn_implementation = NAME
    try:
        yield True
    finally:
        config._attn_implementation = "sdpa"
