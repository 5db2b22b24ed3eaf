"""Which prompt rows must be computed in which layer, so that the last token comes out as if all had been."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import chain

import torch

from ..flow import Blocks, ResolvedFlow
from ..flow.blocks import runs_of_bits
from .flex import BLOCK, kept_pairs
from .strips import CHUNK_ROWS, Strip, Strips, kernel_of, strips_of


@dataclass(frozen=True)
class RowPlan:
    """The segments of a prompt that live, layer by layer, found by walking back from `last`.

    A segment enters layer l if its output of layer l, or its keys and values there, are still read on some way to
    `last`. A random control is planned as if it cut nothing: its draws leave no row without readers.
    """

    resolved: ResolvedFlow
    undropped: int  # the first layers whose rows are all kept: the host reads the prompt's length off the first cache

    @cached_property
    def _strips(self) -> dict[int, Strips]:
        """By layer, as far as they were asked for."""
        return {}

    @cached_property
    def entering(self) -> tuple[frozenset[int], ...]:
        """The segments that enter each layer, from layer 1 on; the last entry: those that leave the last layer."""
        last = len(self.resolved.segments) - 1
        live = 1 << last  # a bit set
        found = [live]
        for layer in range(self.resolved.bound.num_layers, 0, -1):
            kept = self.resolved.blocks(layer).kept
            for query in _each(live):
                live |= kept[query]
            if layer <= self.undropped:
                live = (1 << (last + 1)) - 1
            found.append(live)
        return tuple(map(_places, reversed(found)))

    def read_by(self, query: int, layer: int) -> tuple[int, ...]:
        """The segments that one segment reads in a layer."""
        return tuple(_each(self.resolved.blocks(layer).kept[query]))

    def strips(self, layer: int) -> Strips:
        """The attention among the rows that enter a layer, in strips."""
        found = self._strips.get(layer)
        if found is None:
            found = self._strips[layer] = _strips(self.resolved.blocks(layer), self.entering[layer - 1])
        return found

    def num_edges(self, layer: int) -> int:
        """The (query, key) pairs that are kept among the rows that enter a layer, of one head."""
        if self.resolved.draws:  # every row enters
            return self.resolved.kept_by_layer()[layer - 1]
        return sum(
            len(s.rows) * sum(map(len, s.before)) + s.reads_itself * len(s.rows) * (len(s.rows) + 1) // 2
            for s in self.strips(layer).strips
        )

    def num_pairs(self, layer: int, device: torch.device) -> int:
        """The pairs of one head that a layer's kernels compute where it runs in strips, or in FlexAttention's blocks.

        Causal and masked kernels compute their whole square, FlexAttention every block of which a pair is kept.
        """
        strips = self.strips(layer)
        kernel = kernel_of(strips, device)
        if kernel == "flex":
            return int((kept_pairs(strips.blocks) > 0).sum()) * BLOCK**2
        if kernel == "masked":
            return strips.num_keys**2
        return sum(_pairs(strip, in_chunks=device.type == "cpu") for strip in strips.strips)

    def rows(self, layer: int) -> tuple[int, ...]:
        """The prompt tokens that enter a layer (from 1), ascending; `last` is always the last of them."""
        return self.tokens(self.entering[layer - 1])

    def rows_read_by_last(self, layer: int) -> tuple[int, ...]:
        """The prompt tokens whose keys and values generated tokens may read in a layer."""
        return self.tokens(self.segments_read_by_last(layer))

    def segments_read_by_last(self, layer: int) -> frozenset[int]:
        """The segments of those tokens."""
        read = _places(self.resolved.blocks(layer).kept[-1])
        cut = self.resolved.cut_from_generated(layer)
        segments = self.resolved.segments
        return (
            frozenset(s for s in read if not any(segments[s].start in span for span in cut)) if cut else read
        )

    def tokens(self, segments: frozenset[int]) -> tuple[int, ...]:
        """The prompt tokens of some segments, ascending."""
        return tuple(token for s in sorted(segments) for token in self.resolved.segments[s])


def _each(bits: int) -> Iterator[int]:
    """The places of the ones in a bit set, in their order."""
    return chain.from_iterable(runs_of_bits(bits))


@lru_cache(maxsize=1024)
def _places(bits: int) -> frozenset[int]:
    """The same as a set; layers alike share one."""
    return frozenset(_each(bits))


@lru_cache(maxsize=256)  # most layers of a flow are alike
def _strips(blocks: Blocks, entering: frozenset[int]) -> Strips:
    return strips_of(blocks, entering)


def _pairs(strip: Strip, in_chunks: bool) -> int:
    """The pairs of one head in the kernel calls of a strip; of its chunks, the later ones read more of its keys."""
    rows, keys = len(strip.rows), sum(map(len, strip.keys))
    if not (in_chunks and strip.before and strip.reads_itself):
        return rows * keys
    ends = [*range(CHUNK_ROWS, rows, CHUNK_ROWS), rows]
    return sum((end - start) * (keys - rows + end) for start, end in zip([0, *ends], ends, strict=False))
