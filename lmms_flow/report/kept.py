"""A closed pathway as the search changes it: which kinds of edges it keeps, in which layers.

A kind of edge is a pair of the prompt's groups (`system:video`, `question:question`, ...) or `cross_frame`. The three
ranges of a pathway say where a closed pathway keeps each of them; `narrowed` says which ones are kept in fewer layers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from random import Random
from typing import Any

from ..errors import FlowError
from ..flow import Flow
from ..flow.knockout import CROSS_FRAME, Knockout, parse_rules
from ..flow.layout import BASE_GROUPS, prompt_layout
from ..flow.pathway import KINDS, BoundPathway, Pathway, kept_range, written

EDGES = (
    CROSS_FRAME,
    *(f"{source}:{target}" for place, source in enumerate(BASE_GROUPS) for target in BASE_GROUPS[place:]),
)
# Which of two pathways keeps more is told on the paper's prompt, before anything has run.
_PROMPT = prompt_layout(system=35, frames=8, tokens_per_frame=144, gap=5, question=41, tail=15)
Ranges = tuple[range, range, range]
TRIES = 1000  # draws of a random pathway


@dataclass(frozen=True)
class Kept:
    """A closed pathway: the layers in which each kind of edge is kept, from 1; an empty range is none."""

    ranges: Ranges
    num_layers: int
    narrowed: tuple[tuple[str, range], ...] = ()

    def __str__(self) -> str:
        name = "_".join(f"{kind}{written(kept)}" for kind, kept in zip("cvq", self.ranges, strict=True))
        if not self.narrowed:
            return name
        return f"{name}_less{hashlib.sha256(' '.join(self.rules).encode()).hexdigest()[:6]}"

    @property
    def pathway(self) -> dict[str, str]:
        """The three ranges as a flow's file writes them."""
        return {kind: written(kept) for kind, kept in zip(KINDS, self.ranges, strict=True)}

    @property
    def content(self) -> dict[str, Any]:
        """What a flow's file says of it."""
        cut = {"cut": list(self.rules)} if self.narrowed else {}
        return {"layers": self.num_layers, "pathway": self.pathway, "closed": True} | cut

    @property
    def rules(self) -> tuple[str, ...]:
        """What is cut beside what a closed pathway of these ranges cuts."""
        whole = _whole(self.ranges, self.num_layers)
        return tuple(rule for edge, kept in self.narrowed for rule in _cut_outside(edge, kept, whole[edge]))

    @cached_property
    def edges(self) -> dict[str, range]:
        """The layers in which each kind of edge is kept."""
        kept = _whole(self.ranges, self.num_layers) | dict(self.narrowed)
        return kept | {CROSS_FRAME: _both(kept[CROSS_FRAME], kept["video:video"])}

    @cached_property
    def foreseen_share(self) -> float:
        """The share of edges that it keeps of the paper's prompt. Raises FlowError where a token would read nothing."""
        cross, enter, leave = (kept_range(text) for text in self.pathway.values())
        spec = Flow(
            "pathway",
            str(self),
            str(self),
            rules=tuple(each for rule in self.rules for each in parse_rules(rule)),
            pathways=(Pathway(cross, enter, leave, closed=True),),
        )
        left, total = spec.kept_edges(_PROMPT, self.num_layers)
        return left / total

    @property
    def is_possible(self) -> bool:
        """Whether a way leads from the video to the answer, and every token reads something."""
        if not all(self.ranges):
            return False
        try:
            return self.foreseen_share > 0
        except FlowError:
            return False

    def smaller(self, layers: int) -> list[Kept]:
        """The pathways with so many layers less, at one end of one kind of edge; a shorter one is dropped whole."""
        made = [*self._shorter_ranges(layers), *self._narrower_edges(layers)]
        fewer: dict[tuple[range, ...], Kept] = {}  # two ways to say the same count once
        for each in made:
            if each.is_possible and each.foreseen_share < self.foreseen_share:
                fewer.setdefault(tuple(each.edges.values()), each)
        return list(fewer.values())

    def _shorter_ranges(self, layers: int) -> Iterator[Kept]:
        for place, kept in enumerate(self.ranges):
            for less in (kept[layers:], kept[:-layers]) if len(kept) > layers else ():
                ranges = [*self.ranges]
                ranges[place] = less
                cross, enter, leave = ranges
                yield narrow(replace(self, ranges=(cross, enter, leave)), dict(self.narrowed))

    def _narrower_edges(self, layers: int) -> Iterator[Kept]:
        for edge, kept in self.edges.items():
            if not kept or edge == CROSS_FRAME:  # that is the first of the three ranges
                continue
            for less in (kept[layers:], kept[:-layers]) if len(kept) > layers else (range(0),):
                yield narrow(self, dict(self.narrowed) | {edge: less})

    def inside(self, others: Iterable[Kept]) -> Kept:
        """What this and all of these keep."""
        ranges, edges = self.ranges, dict(self.narrowed)
        for other in others:
            cross, enter, leave = map(_both, ranges, other.ranges)
            ranges = (cross, enter, leave)
            for edge, kept in other.narrowed:
                edges[edge] = _both(edges.get(edge, kept), kept)
        return narrow(replace(self, ranges=ranges), edges)


def narrow(kept: Kept, edges: dict[str, range]) -> Kept:
    """The same ranges with these kinds of edges kept in these layers at most; what says nothing new is left out."""
    if not all(kept.ranges):
        return replace(kept, narrowed=())
    whole = _whole(kept.ranges, kept.num_layers)
    both = {edge: _both(whole[edge], layers) for edge, layers in edges.items()}
    told = tuple((edge, both[edge]) for edge in EDGES if edge in both and both[edge] != whole[edge])
    return replace(kept, narrowed=told)


def at_random(kept: Kept, seed: int) -> dict[str, Any]:
    """What a flow's file says of a pathway of the same size: each kind of edge in as many layers, drawn at random.

    Every token still reads something in each layer, and `cross_frame` lies where frames read the video at all.
    """
    rng = Random(f"{seed} {kept} {kept.num_layers}")
    edges: dict[str, range] = {}
    for target in BASE_GROUPS:
        own = {edge: layers for edge, layers in kept.edges.items() if edge.endswith(f":{target}")}
        for _ in range(TRIES):
            drawn = {
                edge: _placed(layers, range(1, kept.num_layers + 1), rng) for edge, layers in own.items()
            }
            if len(set().union(*drawn.values())) == kept.num_layers:
                break
        else:
            drawn = own  # there may be one way only
        edges |= drawn
    edges[CROSS_FRAME] = _placed(kept.edges[CROSS_FRAME], edges["video:video"], rng)
    everywhere = range(1, kept.num_layers + 1)
    rules = [rule for edge in EDGES for rule in _cut_outside(edge, edges[edge], everywhere)]
    return {"layers": kept.num_layers, "cut": rules}


def _placed(layers: range, within: range, rng: Random) -> range:
    if not layers:
        return layers
    start = rng.randint(within.start, within.stop - len(layers))
    return range(start, start + len(layers))


def _cut_outside(edge: str, kept: range, whole: range) -> list[str]:
    """The rules that cut an edge in what is left of these layers."""
    parts = (range(whole.start, kept.start), range(kept.stop, whole.stop)) if kept else (whole,)
    return [f"{edge}@{written(part)}" for part in parts if part]


def _both(one: range, other: range) -> range:
    start, stop = max(one.start, other.start), min(one.stop, other.stop)
    return range(start, stop) if one and other and start < stop else range(0)


@lru_cache(maxsize=1024)
def _whole(ranges: Ranges, num_layers: int) -> dict[str, range]:
    """The layers in which a closed pathway keeps each kind of edge."""
    bound = BoundPathway(*ranges, closed=True, num_layers=num_layers)
    found = {}
    for edge in EDGES:
        source, colon, target = edge.partition(":")
        cut = Knockout(source, target if colon else None)
        layers = [layer for layer in range(1, num_layers + 1) if cut not in bound.cuts(layer)]
        found[edge] = range(layers[0], layers[-1] + 1) if layers else range(0)
    return found
