"""Where a flow leaves full attention: what comes before, full attention has computed too."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from ..flow import ResolvedFlow


@dataclass(frozen=True)
class Departure:
    """Where a flow leaves the baseline: `layer` is the first in which it cuts, `row` the first that loses an edge."""

    layer: int
    row: int


def departure(resolved: ResolvedFlow) -> Departure | None:
    """Where a flow leaves full attention; None for one that runs all of it anew, or all of it as it was.

    `sham` is to take the masked path everywhere, so it shares nothing.
    """
    layers = [n for n in range(1, resolved.bound.num_layers + 1) if not resolved.is_causal(n)]
    if not layers or resolved.bound.flow.kind == "sham":
        return None
    rows = [row for rectangles in resolved.rectangles.values() for row in _first_rows(rectangles)]
    if resolved.draws:
        rows.append(resolved.layout.groups["video"][0].start)
    return Departure(layers[0], min(rows))


def _first_rows(rectangles: Iterable[tuple[tuple[range, ...], tuple[range, ...]]]) -> Iterator[int]:
    """The first row of each span of queries that loses an edge: what lies above the diagonal was never there."""
    for keys, queries in rectangles:
        first_key = min(span.start for span in keys)
        for span in queries:
            if span.stop > first_key:
                yield max(span.start, first_key)
