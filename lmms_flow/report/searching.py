"""The search for the sparsest pathway that answers as full attention does: what is tried, and what is kept.

A pathway here is three ranges of layers, closed. The search starts from ranges that a map's curves suggest at several
thresholds, goes on by successive halving (few questions for many pathways, all calibration questions for few), and then
takes single layers off the borders. Nothing here runs a model: `ask` does (`search_runs.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np

from ..flow import Flow
from ..flow.layout import prompt_layout
from ..flow.pathway import KINDS, NOWHERE, Pathway, kept_range
from ..trace.curves import FlowMap
from .statistics import Paired

THRESHOLDS = (-0.5, -1.0, -2.0, -5.0, -10.0, -20.0, -40.0)  # per cent, at which ranges are read off a curve
ARMS = 16  # pathways in the first round
SIGNIFICANT = 0.05
# Which of two pathways keeps more is told on the paper's prompt, before anything has run.
_PROMPT = prompt_layout(system=35, frames=8, tokens_per_frame=144, gap=5, question=41, tail=15)


@dataclass(frozen=True)
class Kept:
    """A closed pathway: the layers in which each of its kinds is kept, from 1; an empty range is none."""

    ranges: tuple[range, range, range]
    num_layers: int

    def __str__(self) -> str:
        return "_".join(f"{kind}{self._written(kept)}" for kind, kept in zip("cvq", self.ranges, strict=True))

    @staticmethod
    def _written(kept: range) -> str:
        return f"{kept[0]}-{kept[-1]}" if kept else NOWHERE

    @property
    def pathway(self) -> dict[str, str]:
        """As a flow's file writes it."""
        return {kind: self._written(kept) for kind, kept in zip(KINDS, self.ranges, strict=True)}

    @property
    def foreseen_share(self) -> float:
        """The share of edges that it keeps of the paper's prompt."""
        cross, enter, leave = (kept_range(text) for text in self.pathway.values())
        spec = Flow("pathway", str(self), str(self), pathways=(Pathway(cross, enter, leave, closed=True),))
        left, total = spec.kept_edges(_PROMPT, self.num_layers)
        return left / total

    def smaller(self) -> list[Kept]:
        """The pathways with one layer less, at one border of one range."""
        found = []
        for kind, kept in enumerate(self.ranges):
            if len(kept) > 1:
                for less in (kept[1:], kept[:-1]):
                    ranges = [*self.ranges]
                    ranges[kind] = less
                    cross, enter, leave = ranges
                    found.append(replace(self, ranges=(cross, enter, leave)))
        return found

    def inside(self, others: Iterable[Kept]) -> Kept:
        """What all of these keep."""
        ranges = [*self.ranges]
        for other in others:
            for kind, kept in enumerate(other.ranges):
                ranges[kind] = range(max(ranges[kind].start, kept.start), min(ranges[kind].stop, kept.stop))
        cross, enter, leave = ranges
        return replace(self, ranges=(cross, enter, leave))


@dataclass(frozen=True)
class Score:
    """How a pathway answered: beside full attention, and what it kept of edges and FLOPs, as shares."""

    paired: Paired
    edges: float
    flops: float

    def equivalent(self, margin: float) -> bool:
        """Whether it answers as full attention does, within the margin (TOST)."""
        return self.paired.equivalence(margin) < SIGNIFICANT

    def is_worse(self, margin: float) -> bool:
        """Whether it lies below the margin, and by more than chance."""
        return self.paired.difference < -margin and self.paired.p_value < SIGNIFICANT


Ask = Callable[[Sequence[Kept], int], Mapping[Kept, Score]]  # pathways, questions of each task


def by_rule(flow_map: FlowMap, below: float, width: int | None = None) -> Kept:
    """The pathway of the paper's rule, closed."""
    ranges = [flow_map.bins(kind, width=width).effective(below) for kind in KINDS]
    return Kept((ranges[0], ranges[1], ranges[2]), flow_map.num_layers)


def suggested(flow_map: FlowMap, start: Kept, arms: int = ARMS) -> list[Kept]:
    """The rule's pathway, and parts of it that the map's curves suggest: the best of each size first.

    Each kind's range runs from the first to the last layer whose curve lies below a threshold, or is the rule's with a
    layer or two less. Of the pathways that these ranges make, those are taken that lose least by the curves among all
    that keep as little.
    """
    curves = [flow_map.curve(kind, resamples=0).mean for kind in KINDS]
    options = [
        list(dict.fromkeys([whole, *(_below(curve, t, whole) for t in THRESHOLDS), *_trimmed(whole)]))
        for curve, whole in zip(curves, start.ranges, strict=True)
    ]
    made = [replace(start, ranges=(a, b, c)) for a, b, c in product(*options)]
    lost = {each: _foreseen_loss(each, curves) for each in made}
    share = {each: each.foreseen_share for each in made}
    chosen, waiting = [start], [each for each in made if each != start]
    while waiting and len(chosen) < arms:
        front = [
            each
            for each in waiting
            if not any(
                share[o] <= share[each]
                and lost[o] <= lost[each]
                and (share[o], lost[o]) != (share[each], lost[each])
                for o in waiting
            )
        ]
        chosen += sorted(front, key=lambda each: lost[each])
        waiting = [each for each in waiting if each not in front]
    return chosen[:arms]


def _below(curve: np.ndarray, threshold: float, whole: range) -> range:
    """From the first to the last layer of `whole` whose value lies below; `whole` where none does."""
    layers = [layer for layer in whole if curve[layer - 1] < threshold]
    return range(layers[0], layers[-1] + 1) if layers else whole


def _trimmed(whole: range) -> list[range]:
    """One or two layers less on one side."""
    return [part for less in (1, 2) for part in (whole[less:], whole[:-less]) if part]


def _foreseen_loss(kept: Kept, curves: Sequence[np.ndarray]) -> float:
    cut = (
        -min(0.0, float(value))
        for curve, layers in zip(curves, kept.ranges, strict=True)
        for layer, value in enumerate(curve, 1)
        if layer not in layers
    )
    return sum(cut)


@dataclass(frozen=True)
class Found:
    """The sparsest equivalent pathway on the calibration questions, and the ways to it, sparser and sparser."""

    best: Kept
    way: tuple[Kept, ...]
    scores: Mapping[Kept, Score]


def search(start: Sequence[Kept], ask: Ask, questions: int, margin: float) -> Found | None:
    """Successive halving over the pathways, then single layers off the borders.

    Args:
        start: the pathways of the first round.
        ask: answers calibration questions under pathways.
        questions: of each task that there are for calibration.
        margin: the largest difference of the accuracy that counts as none, as a share.

    Returns:
        What was found; None where no pathway is equivalent.
    """
    alive = list(start)
    for share in (4, 2):
        if len(alive) > 3:
            scores = ask(alive, -(-questions // share))
            alive = _half(
                [each for each in alive if not scores[each].is_worse(margin)] or alive, scores, margin
            )
    known = dict(ask(alive, questions))
    passed = [each for each in alive if known[each].equivalent(margin)]
    if not passed:
        return None
    best = _sparsest(passed, known)
    way = sorted(passed, key=lambda each: -known[each].edges)
    while smaller := [each for each in best.smaller() if each not in known]:
        known.update(ask(smaller, questions))
        passed = [each for each in smaller if known[each].equivalent(margin)]
        if not passed:
            break
        together = best.inside(passed)
        if all(together.ranges) and together not in known:  # all steps that hold alone, at once
            known.update(ask([together], questions))
            if known[together].equivalent(margin):
                passed.append(together)
        best = _sparsest(passed, known)
        way.append(best)
    return Found(best, tuple(dict.fromkeys(way)), known)


def _sparsest(passed: Sequence[Kept], scores: Mapping[Kept, Score]) -> Kept:
    """The one with the fewest edges; of as many, with the fewest layers."""
    return min(passed, key=lambda each: (scores[each].edges, sum(map(len, each.ranges))))


def _half(alive: list[Kept], scores: Mapping[Kept, Score], margin: float) -> list[Kept]:
    """The better half: within the margin first, then the sparser ones."""
    order = sorted(alive, key=lambda each: (scores[each].paired.difference < -margin, scores[each].edges))
    return order[: max(3, -(-len(order) // 2))]


@dataclass(frozen=True)
class Areas:
    """How faithful a way to choose edges is over all sizes (the yardsticks of the MIB benchmark).

    Faithfulness is the accuracy between that without the video (0) and that of full attention (1). `cpr` is the area
    below it over the share of edges kept: more is better. `cmd` is the area between it and 1: less is better.
    """

    cpr: float
    cmd: float


def areas(points: Iterable[tuple[float, float]], blind: float, full: float) -> Areas:
    """The areas of (share of edges kept, accuracy): no edge leaves the blind accuracy, all of them the full one."""
    span = full - blind
    if not span > 0:
        return Areas(float("nan"), float("nan"))
    best: dict[float, float] = {0.0: 0.0, 1.0: 1.0}
    for share, accuracy in points:
        best[share] = max(best.get(share, -np.inf), (accuracy - blind) / span)
    grid = np.linspace(0, 1, 1001)
    faithful = np.interp(grid, sorted(best), [best[share] for share in sorted(best)])
    return Areas(float(np.trapezoid(faithful, grid)), float(np.trapezoid(np.abs(1 - faithful), grid)))
