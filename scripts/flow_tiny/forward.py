"""The decoder, run layer by layer under the product's masks: a clip once, its questions side by side behind it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from lmms_flow.engine.dense import expand
from lmms_flow.engine.masks import keep_mask
from lmms_flow.flow import Flow, Layout
from scripts.flow_tiny.edges import Draw
from scripts.flow_tiny.model import NUM_LAYERS


def run_layers(language: Any, embeds: Tensor, positions: Tensor, masks: Tensor) -> tuple[Tensor, ...]:
    """States [text, token, width] by layer: the embeddings, each layer's output, and the last one's normed.

    masks [layer, text, query, key] says which edges are kept; positions [1, token].
    """
    rotary = language.rotary_emb(embeds, position_ids=positions)
    states = [embeds]
    for layer, keep in zip(language.layers, masks, strict=True):
        states.append(
            layer(
                states[-1],
                attention_mask=keep[:, None],
                position_ids=positions,
                position_embeddings=rotary,
            )
        )
    states[-1] = language.norm(states[-1])
    return tuple(states)


def text_masks(draws: Sequence[Draw], layouts: Sequence[Layout], length: int) -> Tensor:
    """Kept edges of whole prompts with what follows them: bool [layer, text, query, key]."""
    return torch.stack(
        [kept(draw.flow(frames=False), one, length) for draw, one in zip(draws, layouts, strict=True)], dim=1
    )


def packed_masks(draws: Sequence[Draw], layouts: Sequence[Layout], past: int, new: int) -> Tensor:
    """Kept edges of clips with their questions side by side behind them: bool [layer, clip, query, key].

    Each clip's first `past` tokens are followed by blocks of `new`, one a question, that see nothing of one another.
    `layouts` are those of the whole prompts, clip after clip.
    """
    count = len(layouts) // len(draws)
    size = past + count * new
    masks = torch.zeros(NUM_LAYERS, len(draws), size, size, dtype=torch.bool)
    for number, draw in enumerate(draws):
        for block in range(count):
            keep = kept(draw.flow(), layouts[number * count + block], past + new)
            rows = slice(past + block * new, past + (block + 1) * new)
            masks[:, number, :past, :past] = keep[:, :past, :past]
            masks[:, number, rows, :past] = keep[:, past:, :past]
            masks[:, number, rows, rows] = keep[:, past:, past:]
    return masks


def packed_positions(past: int, new: int, count: int) -> Tensor:
    """[1, token]: each question follows the clip as if it were alone."""
    return torch.cat([torch.arange(past), *[torch.arange(past, past + new)] * count])[None]


@lru_cache(maxsize=64)
def kept(flow: str, layout: Layout, length: int) -> Tensor:
    """The product's mask of a prompt, for a forward of `length` tokens that holds its answer: [layer, query, key].

    The answer's tokens take the cuts of the last prompt token, as generated ones do.
    """
    places = torch.arange(length)
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    resolved = Flow.load(flow).bind(NUM_LAYERS).resolve(layout)
    masks = torch.empty(NUM_LAYERS, length, length, dtype=torch.bool)
    for _, layers in resolved.bound.distinct():
        alike = [layer - 1 for layer in layers]
        prompt = keep_mask(resolved, layers[0])
        masks[alike] = expand(torch.cat([prompt, prompt[-1:]]), places, places) & causal
    return masks


def split_branches(states: Sequence[Tensor], past: int, count: int) -> Iterator[Tensor]:
    """The questions' part of packed states, one text a row: [clip * question, token, width]."""
    for state in states:
        yield state[:, past:].unflatten(1, (count, -1)).flatten(0, 1)
