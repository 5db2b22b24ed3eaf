"""Attention whose edges are weighed: what a mask that is added to the scores can't say.

A knockout takes an edge out of the scores, before the softmax, and the edges that are left share its weight. Here an
edge can also lose its weight behind the softmax (`Zeroed`), where nobody takes its share, or be cut by halves
(`Gated`).
Computed as it is written, a few rows at a time, for grouped heads, capped scores and sinks too.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from ..errors import UnsupportedModelError
from .decoder import attention_implementation, decoder_layers
from .layer_call import goes_through_interface, versions

NAME = "lmms_flow_edges"
CHUNK_ROWS = 256  # of which the weights are held at once, [head, row, key]
# What transformers hands over that changes nothing here: masks are made of it, or the function behind is told of it.
HARMLESS = frozenset(
    {"sliding_window", "is_causal", "position_ids", "cache_position", "use_cache", "output_attentions",
     "output_hidden_states", "output_router_logits", "return_dict", "logits_to_keep", "cache", "past_key_values"}
)  # fmt: skip


@dataclass(frozen=True)
class Zeroed:
    """In the place of a layer's mask: the softmax runs over what the model reads, then cut edges lose their weight.

    `own` is the model's mask of the layer, `keep` bool [batch or 1, 1, query, key].
    """

    own: Tensor | None
    keep: Tensor


@dataclass(frozen=True)
class Gated:
    """In the place of a layer's mask: the model's own attention, and for each knockout a gate on the way to its own.

    With o what a row reads and o_K what it reads under knockout K, cut before the softmax:
    `o + sum_K (g_K - 1) (o - o_K)`. All gates at 1 change nothing, one gate at 0 is that knockout, and the derivative
    by a gate is the whole step that the knockout makes in this layer. (A gate in the scores, `s + log g`, ends in the
    same two places; but where a head reads nothing else, nothing moves until g is nearly 0, and its derivative at 1
    is next to nothing.)

    `own` is the model's mask, `gates` [knockout], `keep` bool [knockout, query, key].
    """

    own: Tensor | None
    gates: Tensor
    keep: Tensor


def edge_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Any,
    scaling: float | None = None,
    dropout: float = 0.0,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention as transformers asks for it, which also takes `Zeroed` and `Gated`; [batch, row, head, width].

    The rows of `query` are the last ones of `key`.
    """
    unknown = next(
        (name for name, given in kwargs.items() if given is not None and name not in HARMLESS), None
    )
    if unknown is not None:
        raise UnsupportedModelError(
            f"{type(module).__name__} gives its attention {unknown}, of which nothing is known here: its edges "
            f"can't be weighed ({versions()})"
        )
    plain = not isinstance(attention_mask, Zeroed | Gated)
    if plain and softcap is None and s_aux is None:
        kwargs.pop("is_causal", None)
        out, _ = sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **kwargs
        )
        return out, None
    edges = attention_mask if not plain else Zeroed(attention_mask, query.new_ones((), dtype=torch.bool))
    heads = _Heads(query.shape[-1] ** -0.5 if scaling is None else scaling, softcap, s_aux, key, value)
    parts = []
    for start in range(0, query.shape[2], CHUNK_ROWS):
        rows = range(start, min(start + CHUNK_ROWS, query.shape[2]))
        asked = query[:, :, rows.start : rows.stop], _of_rows(edges, rows, query.shape[2], key.shape[2])
        if torch.is_grad_enabled():  # the weights are computed again rather than held for every layer
            parts.append(checkpoint(heads.attend, *asked, use_reentrant=False))
        else:
            parts.append(heads.attend(*asked))
    if dropout and module.training:
        raise UnsupportedModelError(
            f"{type(module).__name__}: edges are not weighed under dropout: call eval()"
        )
    return torch.cat(parts, dim=1), None


@dataclass(frozen=True)
class _Rows:
    """What a few rows read: which edges there are, what is added to their scores, and their gates or cuts."""

    visible: Tensor  # bool [batch or 1, 1, row, key]
    added: Tensor | None
    keep: Tensor  # bool [batch or 1, 1, row, key], with gates [knockout, row, key]
    gates: Tensor | None = None


def _of_rows(edges: Zeroed | Gated, rows: range, num_queries: int, num_keys: int) -> _Rows:
    """The part of a layer's mask that belongs to some of its rows."""
    own, added = edges.own, None
    if own is None:
        device = edges.keep.device
        visible = torch.ones(len(rows), num_keys, dtype=torch.bool, device=device)
        visible = visible.tril(num_keys - num_queries + rows.start)[None, None]
    else:
        part = own[:, :, rows.start : rows.stop]
        visible = part if part.dtype == torch.bool else part > torch.finfo(part.dtype).min / 2
        added = None if part.dtype == torch.bool else part
    if isinstance(edges, Zeroed):
        keep = edges.keep if not edges.keep.ndim else edges.keep[:, :, rows.start : rows.stop]
        return _Rows(visible, added, keep)
    return _Rows(visible, added, edges.keep[:, rows.start : rows.stop], edges.gates)


@dataclass(frozen=True)
class _Heads:
    """A layer's keys and values, and how its scores are made."""

    scaling: float
    softcap: float | None
    sinks: Tensor | None  # one score a head that takes weight and has no value
    key: Tensor  # [batch, key head, key, width]
    value: Tensor

    def attend(self, query: Tensor, rows: _Rows) -> Tensor:
        """[batch, row, head, width] of [batch, head, row, width]; query heads share keys group by group."""
        batch, num_heads, count, width = query.shape
        groups = (batch, self.key.shape[1], num_heads // self.key.shape[1], count)
        scores = query.view(*groups, width) @ self.key.unsqueeze(2).mT * self.scaling
        if self.softcap is not None:
            scores = torch.tanh(scores / self.softcap) * self.softcap
        scores = scores if scores.dtype == torch.float64 else scores.float()
        if rows.added is not None:
            scores = scores + rows.added.unsqueeze(2)
        visible = rows.visible.unsqueeze(2)
        weights = self._softmax(scores, visible)
        if rows.gates is None:
            out = self._read(weights * (rows.keep if not rows.keep.ndim else rows.keep.unsqueeze(2)))
        else:
            out = self._gated(scores, visible, self._read(weights), rows)
        return out.reshape(batch, num_heads, count, -1).transpose(1, 2)

    def _gated(self, scores: Tensor, visible: Tensor, full: Tensor, rows: _Rows) -> Tensor:
        """The steps towards each knockout's attention, in the rows that it changes."""
        assert rows.gates is not None
        steps = torch.zeros_like(full)
        for gate, keep in zip(rows.gates, rows.keep, strict=True):
            changed = (~keep).any(-1).nonzero()[:, 0]
            if len(changed):
                of_rows = visible.expand(*visible.shape[:3], *keep.shape)[..., changed, :]
                cut = self._read(self._softmax(scores[..., changed, :], of_rows & keep[changed]))
                step = (gate - 1) * (full[..., changed, :] - cut)
                steps = steps.index_add(3, changed, step.to(steps.dtype))
        return full + steps

    def _softmax(self, scores: Tensor, visible: Tensor) -> Tensor:
        """The weights of what is visible; a row of nothing (padding) reads evenly, as under a mask of numbers."""
        scores = scores.masked_fill(~visible, torch.finfo(scores.dtype).min)
        if self.sinks is None:
            return scores.softmax(-1)
        sink = self.sinks.to(scores.dtype).view(1, *scores.shape[1:3], 1, 1).expand(*scores.shape[:-1], 1)
        return torch.cat([scores, sink], dim=-1).softmax(-1)[..., :-1]

    def _read(self, weights: Tensor) -> Tensor:
        return weights.to(self.value.dtype) @ self.value.unsqueeze(2)


@contextmanager
def weighing_edges(decoder: nn.Module) -> Iterator[None]:
    """Inside the block the decoder's attention takes `Zeroed` and `Gated` in the place of a mask.

    Raises UnsupportedModelError for a model whose attention does not go through transformers' interface, or is
    somebody else's function.
    """
    config: Any = getattr(decoder, "config", None)
    before = attention_implementation(decoder)
    if before == NAME:
        yield
        return
    attentions: list[Any] = [layer.self_attn for layer in decoder_layers(decoder)]
    who = type(decoder).__name__
    foreign = next((each for each in attentions if not goes_through_interface(each)), None)
    if foreign is not None:
        raise UnsupportedModelError(
            f"{who}: {type(foreign).__name__} does not run through transformers' attention interface, so its edges "
            f"can't be weighed ({versions()})"
        )
    own_sdpa = (AttentionInterface()["sdpa"], AttentionMaskInterface()["sdpa"])
    if before not in ("sdpa", "eager") or own_sdpa != (sdpa_attention_forward, sdpa_mask):
        raise UnsupportedModelError(
            f"{who} runs its attention by somebody's own function ({before}): edges can be weighed under transformers' "
            "'sdpa' or 'eager' alone"
        )
    if any(getattr(each, "config", None) is not config for each in attentions):
        raise UnsupportedModelError(
            f"{who}: its layers have configurations of their own, so their edges can't be weighed"
        )
    AttentionInterface.register(NAME, edge_attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    config._attn_implementation = NAME
    try:
        yield
    finally:
        if config._attn_implementation == NAME:  # else somebody else set it inside the block, and was refused
            config._attn_implementation = before
