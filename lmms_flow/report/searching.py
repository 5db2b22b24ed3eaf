"""The search for the sparsest pathway that answers as full attention does: what is tried, and what is kept.

It starts from closed pathways of three ranges that a map's curves suggest at several thresholds, and halves them: few
questions for many pathways, all calibration questions for few. From the best it goes on with any kind of edge between
the prompt's groups: layers are taken off, many at a time first, and what holds alone is tried together. Nothing here
runs a model: `ask` does (`search_runs.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product

import numpy as np

from ..flow.pathway import KINDS
from ..trace.bins import EFFECTIVE
from ..trace.curves import FlowMap
from .kept import Kept
from .statistics import Paired

THRESHOLDS = (-0.5, -1.0, -2.0, -5.0, -10.0, -20.0, -40.0)  # per cent, at which ranges are read off a curve
ARMS = 16  # pathways of a round
LAST = 3  # pathways that the halving leaves for all calibration questions
FEW, SOME = 16, 4  # a round asks this part of the calibration questions before all
SIGNIFICANT = 0.05
CALIBRATED = 0.025  # many are tried on the same questions, so more is asked of them there


@dataclass(frozen=True)
class Score:
    """How a pathway answered: beside full attention, and what it kept of edges and FLOPs, as shares.

    `change` is the mean relative change of the probability of full attention's answer, per cent; nan where it was not
    written down.
    """

    paired: Paired
    edges: float
    flops: float
    change: float = float("nan")

    def equivalent(self, margin: float, level: float = SIGNIFICANT) -> bool:
        """Whether it answers as full attention does, within the margin (TOST at this level)."""
        return self.paired.equivalence(margin) < level

    def is_worse(self, margin: float) -> bool:
        """Whether it lies below the margin, and by more than chance."""
        return self.paired.difference < -margin and self.paired.p_value < SIGNIFICANT

    def is_promising(self, margin: float) -> bool:
        """Whether a few questions speak for it: its answers are as probable as the paper's rule asks of a bin."""
        return not self.change < EFFECTIVE and not self.is_worse(margin)


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


def search(start: Sequence[Kept], ask: Ask, questions: int, margin: float, arms: int = ARMS) -> Found | None:
    """Successive halving over the pathways, then layers off any kind of edge.

    Args:
        start: the pathways of the first round.
        ask: answers calibration questions under pathways.
        questions: of each task that there are for calibration.
        margin: the largest difference of the accuracy that counts as none, as a share.
        arms: pathways of a round.

    Returns:
        What was found; None where no pathway is equivalent.
    """
    rounds = _Rounds(ask, questions, margin, arms)
    passed = rounds.halved(start)
    if not passed:
        return None
    way = sorted(passed, key=lambda each: -rounds.known[each].edges)
    layers = way[-1].num_layers
    while layers:
        step = rounds.shortened(way[-1], layers)
        if step.found is not None:
            way.append(step.found)
        if step.found is None or (step.whole and layers > 1):  # else what is left of this step is tried again
            layers //= 2
    return Found(way[-1], tuple(dict.fromkeys(way)), rounds.known)


@dataclass(frozen=True)
class _Step:
    """The sparser pathway of a round, if there is one, and whether it takes up everything that held alone."""

    found: Kept | None
    whole: bool = True


@dataclass
class _Rounds:
    """Rounds of a search; `answered` holds the scores on each number of questions."""

    ask: Ask
    questions: int
    margin: float
    arms: int
    answered: dict[int, dict[Kept, Score]] = field(default_factory=dict)

    @property
    def known(self) -> dict[Kept, Score]:
        """The scores on all calibration questions."""
        return self.answered.get(self.questions, {})

    def halved(self, start: Sequence[Kept]) -> list[Kept]:
        """The equivalent ones of many pathways: after each round the better half goes on, three at the least.

        The better half are the sparsest of those that a few questions speak for. Where none of these turns out to be
        equivalent, those that were left behind are asked after all, the most harmless first.
        """
        alive, left = list(start), dict[Kept, float]()
        for part in (FEW, SOME):
            if len(alive) > LAST:
                scores = self._asked(alive, part)
                order = sorted(
                    alive, key=lambda each: (not self._is_promising(scores[each]), scores[each].edges)
                )
                going = max(LAST, -(-len(order) // 2))
                alive, behind = order[:going], order[going:]
                left |= {each: -np.nan_to_num(scores[each].change) for each in behind}
        passed, again = self._equivalent(alive), sorted(left, key=left.__getitem__)
        while again and not passed:
            passed, again = self._equivalent(again[:LAST]), again[LAST:]
        return passed

    def shortened(self, best: Kept, layers: int) -> _Step:
        """The best pathway with so many layers less of as many kinds of edges as bear it together."""
        tried = sorted(best.smaller(layers), key=lambda each: each.foreseen_share)[: self.arms]
        scores = self._asked(tried, FEW)
        held = [each for each in tried if self._is_promising(scores[each])]
        held.sort(key=lambda each: -np.nan_to_num(scores[each].change))  # the harmless ones are joined first
        joined = self._joined(held)
        scores = self._asked(joined, SOME)
        for each in joined:  # the sparsest first
            if self._is_promising(scores[each]) and self._equivalent([each]):
                return _Step(each, each == joined[0])
        return _Step(None)

    def _joined(self, held: Sequence[Kept]) -> list[Kept]:
        """What all of them keep, what the better half of them keeps, and so on to the best alone."""
        made: list[Kept] = []
        number = len(held)
        while number:
            together = held[0].inside(held[1:number])
            if together.is_possible and together not in made:
                made.append(together)
            number //= 2
        return made

    def _equivalent(self, pathways: Sequence[Kept]) -> list[Kept]:
        """Those of them that answer all calibration questions as full attention does, and about as surely."""
        scores = self._asked(pathways, 1)
        return [
            each
            for each in pathways
            if scores[each].equivalent(self.margin, CALIBRATED) and self._is_promising(scores[each])
        ]

    def _asked(self, pathways: Sequence[Kept], part: int) -> Mapping[Kept, Score]:
        """Answers on this part of the calibration questions."""
        number = -(-self.questions // part)
        scores = self.answered.setdefault(number, {})
        if new := [each for each in pathways if each not in scores]:
            scores.update(self.ask(new, number))
        return scores

    def _is_promising(self, score: Score) -> bool:
        return score.is_promising(self.margin)
