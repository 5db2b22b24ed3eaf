"""Routes from the video to the last token, and how one is found where single pairs of tokens were drawn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, TypeAlias

from .resolve import ResolvedFlow

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Arrival = tuple[int, "Arrival | None", str]  # layer, where from, group


@dataclass(frozen=True)
class Route:
    """One way from the video to the last token: (group, layer in which it reads the one before), video at layer 0."""

    steps: tuple[tuple[str, int], ...]

    def __str__(self) -> str:
        (first, _), *rest = self.steps
        return " -> ".join([first, *(f"{group} (layer {layer})" for group, layer in rest)])


def route_of(arrival: Arrival) -> Route:
    """The whole way by which something arrived."""
    steps: list[tuple[str, int]] = []
    node: Arrival | None = arrival
    while node is not None:
        layer, node_before, group = node
        steps.append((group, layer))
        node = node_before
    return Route(tuple(reversed(steps)))


Kept: TypeAlias = "Callable[[int], NDArray[np.bool_]]"  # layer -> what it keeps, [query, key]


def kept_of_control(resolved: ResolvedFlow) -> Kept:
    """What a random control keeps in each layer, drawn once each."""
    import numpy as np

    num_tokens = resolved.layout.num_tokens
    causal = np.tril(np.ones((num_tokens, num_tokens), dtype=np.bool_))

    @cache
    def kept(layer: int) -> NDArray[np.bool_]:
        drawn = resolved.drawn(layer)
        assert drawn is not None  # of a random control every layer is drawn
        return causal & ~drawn

    return kept


def earliest_drawn(resolved: ResolvedFlow, groups: tuple[str, ...], kept: Kept) -> Route | None:
    """The earliest route through exactly these groups under a random control, token by token; None where it is cut.

    A control's draws are single pairs: what holds for one token of a segment does not hold for the next.
    """
    members = {g: [t for r in resolved.layout.groups[g] for t in r] for g in groups}
    arrived: list[dict[int, Arrival]] = [dict.fromkeys(members["video"], (0, None, "video"))]
    arrived += [{} for _ in groups[1:]]
    if not all(members.values()):
        return None
    for layer in range(1, resolved.bound.num_layers + 1):
        keep = kept(layer)
        new: list[tuple[int, int, Arrival]] = []
        for step, group in list(enumerate(groups))[1:]:
            held, before = arrived[step - 1], arrived[step]
            waiting = [token for token in members[group] if token not in before]
            for token, key in _first_reads(keep, waiting, list(held)):
                new.append((step, token, (layer, held[key], group)))
            for token, key in _first_reads(keep, waiting, list(before)):  # handed on inside the group
                new.append((step, token, before[key]))
        for step, token, arrival in new:
            arrived[step].setdefault(token, arrival)
        if arrived[-1]:
            return route_of(next(iter(arrived[-1].values())))
    return None


def _first_reads(keep: NDArray[np.bool_], queries: list[int], keys: list[int]) -> list[tuple[int, int]]:
    """The queries that read any of the keys, each with the first that it reads."""
    import numpy as np

    if not queries or not keys:
        return []
    read = keep[np.ix_(queries, keys)]
    return [(queries[place], keys[int(read[place].argmax())]) for place in np.flatnonzero(read.any(axis=1))]
