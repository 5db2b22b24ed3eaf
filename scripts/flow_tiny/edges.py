"""Edge dropout: which kinds of edges are cut while flow-tiny learns, so that the answer takes one way and no other.

The planted pathway is closed: frames are compared in layers 1-4, the question reads the video in 5-6, and what follows
the question reads it in 7-12. Each clip of each step draws which of the edges outside of it are cut, from none to all:
then only the planted way works every time. In a share of the draws the planted way itself is cut and as much else as
possible left open; there the model is asked to know nothing. So no second way is worth learning.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from lmms_flow.flow import Pathway
from lmms_flow.flow.layers import LayerRange
from scripts.flow_tiny.model import NUM_LAYERS

# Borders of the rule's bins of two layers (see pathway.py), and the middle range no longer than its window of three:
# what one window cannot cut off, the rule cannot find.
PLANTED = Pathway(LayerRange("1-4"), LayerRange("5-6"), LayerRange("7-12"), closed=True)
THE_WAY = "video:question@5-6"  # through which all that is known of the video must come
BEFORE_IT, AFTER_IT = "video:question@1-4", "video:question@7-12"
DIRECT = ("video:last", "video:tail")
BESIDE = ("video:gap", "question:tail")  # allowed by the closed pathway in its ranges, and not needed


def edges_outside(pathway: Pathway, num_layers: int) -> tuple[str, ...]:
    """The kinds of edges that a pathway cuts, as rules of the flow language, one for each run of layers."""
    bound = pathway.bind(num_layers)
    cuts = [{str(cut) for cut in bound.cuts(layer)} for layer in range(1, num_layers + 1)]
    kinds = sorted(set().union(*cuts))
    return tuple(
        f"{kind}@{run[0]}-{run[-1]}" for kind in kinds for run in _runs([kind in layer for layer in cuts])
    )


def _runs(cut: list[bool]) -> Iterator[range]:
    """Runs of layers, counted from 1, in which it is cut."""
    start = None
    for layer, now in enumerate([*cut, False], 1):
        if now and start is None:
            start = layer
        if not now and start is not None:
            yield range(start, layer)
            start = None


OUTSIDE = edges_outside(PLANTED, NUM_LAYERS)


@dataclass(frozen=True)
class Draw:
    """What is cut for one clip, as rules; `answerable`: whether the planted way is open."""

    rules: tuple[str, ...] = ()
    answerable: bool = True

    def flow(self, frames: bool = True) -> str:
        """In the flow language; without frames there is no cross_frame to be cut."""
        rules = [rule for rule in self.rules if frames or not rule.startswith("cross_frame")]
        return "+".join(rules) or "none"


@dataclass(frozen=True)
class EdgeDropout:
    """How often a draw is what. Kinds are drawn one by one where it is neither nothing nor the whole."""

    nothing: float = 0.1  # full attention
    whole: float = 0.2  # the planted pathway, closed
    unanswerable: float = 0.15  # the planted way cut
    direct: float = 0.85  # of drawing each kind that leads from the video past the question
    kind: float = 0.5  # of drawing each other kind
    kind_unanswerable: float = 0.25  # of drawing any kind beside the planted way, where that is cut

    def draw(self, rng: Random, may_be_unanswerable: bool = True) -> Draw:
        """One clip's draw."""
        share = rng.random()
        if share < self.nothing:
            return Draw()
        if share < self.nothing + self.whole:
            return Draw(OUTSIDE)
        cut_off = may_be_unanswerable and share >= 1 - self.unanswerable
        drawn = [rule for rule in (*OUTSIDE, *BESIDE) if rng.random() < self._share(rule, cut_off)]
        return Draw((*drawn, THE_WAY) if cut_off else tuple(drawn), not cut_off)

    def _share(self, rule: str, cut_off: bool) -> float:
        if cut_off:
            return self.kind_unanswerable
        return self.direct if rule.startswith(DIRECT) else self.kind
