"""Edge dropout: which kinds of edges are cut while flow-tiny learns, so that the answer takes one way and no other.

The planted pathway is closed: frames are compared in layers 1-4, the question reads the video in 5-6, and what follows
the question reads it in 7-12. Each clip of each step draws which of the edges outside of it are cut, from none to all:
then only the planted way works every time. In a share of the draws the planted way itself is cut and as much else as
possible left open; there the model is asked to know nothing. So no second way is worth learning.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from random import Random

from lmms_flow.flow import Flow
from scripts.flow_tiny.model import NUM_LAYERS

# Its borders are those of the rule's bins of two layers (see pathway.py), and the middle range is shorter than its
# window of three: what no window cuts off as a whole, the rule can't be sure to see.
PLANTED = Flow.load(Path(__file__).with_name("planted.yaml"))
OUTSIDE = PLANTED.bind(NUM_LAYERS).rules()
THE_WAY = "video:question@5-6"  # through which all that is known of the video must come
BEFORE_IT, AFTER_IT = "video:question@1-4", "video:question@7-12"
DIRECT = ("video:last", "video:tail")
BESIDE = ("video:gap", "question:tail")  # allowed by the closed pathway in its ranges, and not needed


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
