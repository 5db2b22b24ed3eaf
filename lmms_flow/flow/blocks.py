"""One layer's mask in blocks: rectangles cut from the causal triangle, and what is left, counted in closed form."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from .layout import Span

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
