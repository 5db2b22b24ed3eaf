"""Attention whose edges are weighed: what a mask that is added to the scores can't say.

A knockout takes an edge out of the scores, before the softmax, and the edges that are left share its weight. Here an edge
can also lose its weight behind the softmax (`Zeroed`), where nobody takes its share, or keep a part of it (`Gated`).
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
# A cut edge whose weight was e^60 times that of all kept ones together: its derivative is no number that means anything.
LARGEST = 60.0
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
    """In the place of a layer's mask: the weights before their sum is taken, times a gate of each edge.

    `w_ij = g_ij exp(s_ij) / sum_k g_ik exp(s_ik)`: the scores plus log g. A gate of 1 changes nothing, a gate of 0 is the
    knockout, and the derivative is finite at both. `gates` is [query segment, key segment], the same for all heads;
    `segments` [token] says in which segment a token lies.
    """

    own: Tensor | None
    gates: Tensor
    segments: Tensor


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
    """Attention as transformers asks for it, which also takes `Zeroed` and `Gated` for a mask; [batch, row, head, width].

    The rows of `query` are the last ones of `key`.
    """
    unknown = next(
        (name for name, given in kwargs.items() if given is not None and name not in HARMLESS), None
    )
    if unknown is not None:
        raise UnsupportedModelError(
            f"{type(module).__name__} gives its attention {unknown}, of which nothing is known here: its edges can't be "
            f"weighed ({versions()})"
        )
    plain = not isinstance(attention_mask, Zeroed | Gated)
    if plain and softcap is None and s_aux is None:
        kwargs.pop("is_causal", None)
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **kwargs
        )
    edges = attention_mask if not plain else Zeroed(attention_mask, torch.ones((), dtype=torch.bool))
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
    keep: Tensor | None
    gates: Tensor | None


def _of_rows(edges: Zeroed | Gated, rows: range, num_queries: int, num_keys: int) -> _Rows:
    """The part of a layer's mask that belongs to some of its rows."""
    own, added = edges.own, None
    if own is None:
        device = edges.keep.device if isinstance(edges, Zeroed) else edges.gates.device
        visible = torch.ones(len(rows), num_keys, dtype=torch.bool, device=device)
        visible = visible.tril(num_keys - num_queries + rows.start)[None, None]
    else:
        part = own[:, :, rows.start : rows.stop]
        visible = part if part.dtype == torch.bool else part > torch.finfo(part.dtype).min / 2
        added = None if part.dtype == torch.bool else part
    if isinstance(edges, Zeroed):
        keep = edges.keep if not edges.keep.ndim else edges.keep[:, :, rows.start : rows.stop]
        return _Rows(visible, added, keep, None)
    first = num_keys - num_queries
    queries = edges.segments[first + rows.start : first + rows.stop]
    # As products and not by indices: their gradient is a sum in a fixed order.
    of = [
        nn.functional.one_hot(each, len(edges.gates)).to(edges.gates.dtype)
        for each in (queries, edges.segments)
    ]
    return _Rows(visible, added, None, of[0] @ edges.gates @ of[1][:num_keys].T)


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
        scores = scores.masked_fill(~rows.visible.unsqueeze(2), -torch.inf)
        weights = (
            self._gated(scores, rows.gates) if rows.gates is not None else self._zeroed(scores, rows.keep)
        )
        out = weights.to(self.value.dtype) @ self.value.unsqueeze(2)
        return out.view(batch, num_heads, count, self.value.shape[-1]).transpose(1, 2)

    def _sink(self, like: Tensor) -> Tensor | None:
        if self.sinks is None:
            return None
        return (
            self.sinks.to(like.dtype).view(1, like.shape[1], like.shape[2], 1, 1).expand(*like.shape[:-1], 1)
        )

    def _zeroed(self, scores: Tensor, keep: Tensor | None) -> Tensor:
        sink = self._sink(scores)
        every = scores if sink is None else torch.cat([scores, sink], dim=-1)
        largest = torch.finfo(every.dtype).min
        weights = every.clamp(min=largest).softmax(-1)[
            ..., : scores.shape[-1]
        ]  # a padding row reads evenly, as in SDPA
        assert keep is not None
        return weights * (keep if not keep.ndim else keep.unsqueeze(2))

    def _gated(self, scores: Tensor, gates: Tensor) -> Tensor:
        sink = self._sink(scores)
        highest = scores.detach().masked_fill(gates == 0, -torch.inf).amax(-1, keepdim=True)
        if sink is not None:
            highest = torch.maximum(highest, sink.detach())
        raised = (scores - highest).clamp(max=LARGEST).exp() * gates
        total = raised.sum(-1, keepdim=True)
        return raised / (total if sink is None else total + (sink - highest).exp())


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
