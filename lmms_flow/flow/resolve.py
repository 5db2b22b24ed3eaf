"""A flow on one prompt: rectangles by layer, the kept edges in closed form, and what must not happen."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING

from ..errors import FlowError
from .flow import BoundFlow
from .knockout import Knockout
from .layout import Layout, Span
from .random_cut import check_eligible, draw, draw_counts

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Rectangles = tuple[tuple[Span, Span], ...]


@dataclass(frozen=True)
class Blocks:
    """One layer's mask in blocks: `segments` cut the prompt so that a pair of them is kept or cut as a whole.

    `kept[t]` is a bit set of the segments s <= t that segment t reads; `t` reading itself is a causal triangle.
    """

    segments: tuple[range, ...]
    kept: tuple[int, ...]

    @classmethod
    def of(cls, segments: tuple[range, ...], rectangles: Rectangles) -> Blocks:
        """The blocks that remain when the rectangles are cut from the causal triangle."""
        kept = [(1 << (t + 1)) - 1 for t in range(len(segments))]
        at = {segment.start: s for s, segment in enumerate(segments)} | {segments[-1].stop: len(segments)}
        for keys, queries in rectangles:
            cut = sum((1 << at[r.stop]) - (1 << at[r.start]) for r in keys)
            for span in queries:
                for t in range(at[span.start], at[span.stop]):
                    kept[t] &= ~cut
        return cls(segments, tuple(kept))

    def num_edges(self) -> int:
        """The number of (query, key) pairs that are kept."""
        total = 0
        for t, (segment, bits) in enumerate(zip(self.segments, self.kept, strict=True)):
            rows, before = len(segment), bits & ~(1 << t)
            keys = sum(
                self.segments[run[-1]].stop - self.segments[run[0]].start for run in runs_of_bits(before)
            )
            total += rows * keys + (rows * (rows + 1) // 2 if bits >> t & 1 else 0)
        return total

    def reads(self, query: int, key: int) -> bool:
        """Whether segment `query` reads segment `key`."""
        return bool(self.kept[query] >> key & 1)


def runs_of_bits(bits: int) -> Iterator[range]:
    """The places of the ones in a bit set, as ranges: there are few, however many ones."""
    place = 0
    while bits:
        zeros = (bits & -bits).bit_length() - 1
        bits >>= zeros
        ones = (~bits & (bits + 1)).bit_length() - 1
        bits >>= ones
        yield range(place + zeros, place + zeros + ones)
        place += zeros + ones


@dataclass(frozen=True)
class ResolvedFlow:
    """A flow that can be run: checked against the model's depth and the prompt's layout."""

    bound: BoundFlow
    layout: Layout
    rectangles: Mapping[frozenset[Knockout], Rectangles]
    empty: tuple[str, ...]
    draws: tuple[int, ...] = ()

    @classmethod
    def of(cls, bound: BoundFlow, layout: Layout) -> ResolvedFlow:
        """Resolves and checks; see `BoundFlow.resolve`."""
        by_knockout = {cut: cut.rectangles(layout) for cut in sorted(frozenset().union(*bound.cuts), key=str)}
        rectangles = {
            cuts: tuple(rect for cut in sorted(cuts, key=str) for rect in by_knockout[cut])
            for cuts in set(bound.cuts)
        }
        empty = tuple(str(cut) for cut, rects in by_knockout.items() if not rects)
        resolved = cls(bound, layout, rectangles, empty, _draws(bound, layout))
        resolved._check()
        return resolved

    @cached_property
    def segments(self) -> tuple[range, ...]:
        """The prompt in pieces between which every cut is all or nothing."""
        borders = sorted({0, self.layout.num_tokens, *self.layout.borders()})
        return tuple(range(a, b) for a, b in pairwise(borders))

    @cached_property
    def _blocks(self) -> Mapping[frozenset[Knockout], Blocks]:
        return {cuts: Blocks.of(self.segments, rects) for cuts, rects in self.rectangles.items()}

    def blocks(self, layer: int) -> Blocks:
        """One layer's mask in blocks, the random draws left out."""
        return self._blocks[self.bound.cuts[layer - 1]]

    def drawn(self, layer: int) -> NDArray[np.bool_] | None:
        """The pairs that a random control cuts in one layer, bool [query, key]; None for every other flow."""
        random = self.bound.flow.random
        return draw(self.layout, layer, self.draws[layer - 1], random.seed) if random else None

    def kept_by_layer(self) -> tuple[int, ...]:
        """The attention edges kept in each layer, of one head."""
        counts = {cuts: blocks.num_edges() for cuts, blocks in self._blocks.items()}
        draws = self.draws or (0,) * self.bound.num_layers
        return tuple(counts[cuts] - drawn for cuts, drawn in zip(self.bound.cuts, draws, strict=True))

    def kept_edges(self) -> tuple[int, int]:
        """(kept, total) attention edges of one head, summed over layers."""
        triangle = self.layout.num_tokens * (self.layout.num_tokens + 1) // 2
        return sum(self.kept_by_layer()), triangle * self.bound.num_layers

    def is_causal(self, layer: int) -> bool:
        """Whether nothing at all is cut in this layer."""
        return not self.rectangles[self.bound.cuts[layer - 1]] and not (self.draws and self.draws[layer - 1])

    def _check(self) -> None:
        flow = self.bound.flow
        kept, total = self.kept_edges()
        if kept == total and flow.kind not in ("none", "sham"):
            why = f" ({', '.join(self.empty)}: a group is empty)" if self.empty else ""
            raise FlowError(f"flow {flow.text!r} cuts nothing in this prompt{why}")
        for cuts, layers in self.bound.distinct():
            for segment, bits in zip(self.segments, self._blocks[cuts].kept, strict=True):
                if not bits:
                    token = f"token {segment.start} ({self.layout.group_of(segment.start)})"
                    raise FlowError(
                        f"flow {flow.text!r} leaves {token} without any key in layer {layers[0]}"
                        " (a token must read at least one token)"
                    )
        if self.draws and not self.layout.groups["system"]:
            self._check_drawn_rows()

    def _check_drawn_rows(self) -> None:
        """Without a system group a random draw may hit every key of a row."""
        import numpy as np

        causal = np.tril(np.ones((self.layout.num_tokens, self.layout.num_tokens), dtype=np.bool_))
        for layer in range(1, self.bound.num_layers + 1):
            drawn = self.drawn(layer)
            assert drawn is not None
            bare = np.flatnonzero(~(causal & ~drawn).any(axis=1))
            if len(bare):
                raise FlowError(
                    f"flow {self.bound.flow.text!r} leaves token {bare[0]} without any key in layer {layer}: this "
                    "prompt has no tokens before the video; take a smaller share or another seed"
                )


def _draws(bound: BoundFlow, layout: Layout) -> tuple[int, ...]:
    """How many pairs a random control cuts in each layer."""
    random = bound.flow.random
    if random is None:
        return ()
    if bound.like is not None:
        kept, total = bound.like.resolve(layout).kept_edges()
        return draw_counts(total - kept, bound.num_layers, layout)
    assert random.share is not None
    count = int(layout.num_tokens * (layout.num_tokens + 1) // 2 * random.share)
    check_eligible(count, layout)
    return (count,) * bound.num_layers
