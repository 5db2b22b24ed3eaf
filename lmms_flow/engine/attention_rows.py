"""Attention weights of chosen rows, from what a layer hands to its attention function.

SDPA gives no weights out. They are computed again for the rows that somebody asks for, from the queries, keys, mask and
scale of the very call, as `sdpa_attention_forward` of transformers treats them, in chunks of a few megabytes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias

import torch
from torch import Tensor

from ..errors import UnsupportedModelError
from .columns import send

Pooling: TypeAlias = Literal["mean", "max"]
POOLINGS = ("mean", "max")
CHUNK_BYTES = (
    6_000_000  # that exist at once: copies of the keys in fp32, scores, weights, and their sum over heads
)
PARTS = 3  # of the size of a chunk's scores: they, the weights, and what pooling makes of them


class Weights(Protocol):
    """The attention weights of one call of a layer: of `num_rows` queries, the last ones of `num_keys` keys."""

    @property
    def num_rows(self) -> int:
        """Queries of the call."""

    @property
    def num_keys(self) -> int:
        """Keys of the call."""

    @property
    def rows_at_once(self) -> int:
        """Rows for which `of` stays within its memory."""

    def of(self, rows: Tensor) -> Iterator[Tensor]:
        """Weights [head, row, key] in fp32 of these rows (counted within the call), some heads at a time."""


def pooled(weights: Weights, rows: Tensor, heads: Pooling) -> Tensor:
    """The weights of rows, as the mean or the largest over all heads: fp32 [row, key]."""
    return torch.cat([_pooled(weights, part, heads) for part in torch.split(rows, weights.rows_at_once)])


def _pooled(weights: Weights, rows: Tensor, heads: Pooling) -> Tensor:
    parts = weights.of(rows)
    first = next(parts)
    found, count = _over_heads(first, heads), len(first)
    del first
    for part in parts:
        one = _over_heads(part, heads)
        count += len(part)
        del part  # before the next one is computed
        found = found.add_(one) if heads == "mean" else torch.maximum(found, one)
    return found / count if heads == "mean" else found


def _over_heads(part: Tensor, heads: Pooling) -> Tensor:
    return part.sum(0) if heads == "mean" else part.amax(0)


@dataclass(frozen=True)
class GivenWeights:
    """What eager attention gave out itself, [1, head, row, key]."""

    weights: Tensor

    @property
    def num_rows(self) -> int:
        """Queries of the call."""
        return int(self.weights.shape[2])

    @property
    def num_keys(self) -> int:
        """Keys of the call."""
        return int(self.weights.shape[3])

    @property
    def rows_at_once(self) -> int:
        """They are there already."""
        return self.num_rows

    def of(self, rows: Tensor) -> Iterator[Tensor]:
        """The weights of these rows, all heads at once."""
        yield self.weights[0].index_select(1, send(rows, self.weights.device)).float()


@dataclass(frozen=True)
class SdpaCall:
    """What transformers' SDPA function was called with. [1, head, row, width] each; keys may have fewer heads.

    `mask` is boolean or added to the scores; without one, `is_causal` says whether rows read the keys up to their own.
    """

    query: Tensor
    key: Tensor
    mask: Tensor | None
    scale: float
    is_causal: bool
    bias: Tensor | None

    @classmethod
    def read(
        cls, module: Any, query: Tensor, key: Tensor, mask: Any, arguments: Mapping[str, Any]
    ) -> SdpaCall:
        """The parts of a call. Raises UnsupportedModelError for what its weights can't be computed from."""
        if mask is not None and type(mask) is not Tensor:
            raise UnsupportedModelError(
                "attention can't be read where the sparse engine runs a layer in strips: write engine='dense'"
            )
        if arguments.get("dropout"):
            raise UnsupportedModelError(
                "attention can't be read under dropout, which no second computation repeats: call model.eval()"
            )
        causal = arguments.get("is_causal")
        causal = getattr(module, "is_causal", True) if causal is None else causal
        rows = query.shape[2]
        is_causal = bool(causal) and mask is None and rows > 1
        if is_causal:  # SDPA counts from the first key, and transformers cuts the others off
            key = key[:, :, :rows]
        scale = arguments.get("scaling")
        return cls(
            query.detach(),
            key.detach(),
            mask,
            query.shape[-1] ** -0.5 if scale is None else float(scale),
            is_causal,
            arguments.get("position_bias"),
        )

    @property
    def num_rows(self) -> int:
        """Queries of the call."""
        return int(self.query.shape[2])

    @property
    def num_keys(self) -> int:
        """Keys of the call."""
        return int(self.key.shape[2])

    @property
    def rows_at_once(self) -> int:
        """Rows of one group of heads that share their keys."""
        return max(1, (CHUNK_BYTES - self._key_bytes) // (PARTS * self._row_bytes))

    def of(self, rows: Tensor) -> Iterator[Tensor]:
        """The weights of these rows, for some groups of heads that share their keys at a time."""
        rows = send(rows, self.query.device)
        later = None
        if self.mask is None and self.is_causal:
            later = torch.arange(self.num_keys, device=rows.device) > rows[:, None]
        groups = max(1, CHUNK_BYTES // (PARTS * len(rows) * self._row_bytes + self._key_bytes))
        for first in range(0, self.key.shape[1], groups):
            last = min(first + groups, self.key.shape[1])
            heads = slice(first * self._sharing, last * self._sharing)
            yield self._weights(heads, self.key[0, first:last], rows, later)

    @property
    def _sharing(self) -> int:
        """Heads that share their keys."""
        return int(self.query.shape[1] // self.key.shape[1])

    @property
    def _row_bytes(self) -> int:
        """Of the scores of one row, of heads that share their keys."""
        return self._sharing * self.num_keys * 4

    @property
    def _key_bytes(self) -> int:
        """Of one head's keys in fp32, where they are copied."""
        copied = self.key.dtype != torch.float32 and not _widens(self.key)
        return self.num_keys * int(self.key.shape[3]) * 4 if copied else 0

    def _weights(self, heads: slice, keys: Tensor, rows: Tensor, later: Tensor | None) -> Tensor:
        """[head, row, key] of heads whose keys are [group, key, width]; `later` [row, key] are hidden ones."""
        query = self.query[0, heads].index_select(1, rows)
        grouped = query.reshape(len(keys), -1, query.shape[-1])  # [group, head of it * row, width]
        scores = _products(grouped, keys).view(len(query), len(rows), -1).mul_(self.scale)
        if self.bias is not None:
            scores += self._part(self.bias, heads, rows)
        if self.mask is not None:
            mask = self._part(self.mask, heads, rows)
            scores = scores.masked_fill_(~mask, -math.inf) if mask.dtype == torch.bool else scores.add_(mask)
        elif later is not None:
            scores.masked_fill_(later, -math.inf)
        return scores.softmax(-1)

    def _part(self, table: Tensor, heads: slice, rows: Tensor) -> Tensor:
        """Some heads and rows of a mask or bias [1, 1 or head, 1 or row, key]."""
        own = table[0, heads] if table.shape[1] > 1 else table[0]
        if own.shape[1] > 1:
            own = own.index_select(1, rows)
        return own[..., : self.num_keys]


def _widens(keys: Tensor) -> bool:
    """Whether the device multiplies half precision into fp32: then nothing is copied first."""
    return keys.is_cuda and keys.dtype in (torch.bfloat16, torch.float16)


def _products(rows: Tensor, keys: Tensor) -> Tensor:
    """Products [group, row, key] in fp32 of [group, row, width] and [group, key, width]."""
    if _widens(keys):
        return torch.bmm(rows, keys.transpose(1, 2), out_dtype=torch.float32)
    return torch.bmm(rows.float(), keys.float().transpose(1, 2))
