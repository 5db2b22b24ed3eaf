"""Sparse pathways: the layers in which video may flow from frame to frame, to the question and to the last token.

A pathway names three layer ranges and cuts everything else of those three kinds. There are two readings of
"everything else".
*Released* follows the rules of the paper's own code: template text stays open and relays video to `last`.
*Closed* is the stricter reading of the paper's text ("disabling all others", section 3.5): `gap` counts as question and
`tail` as last. The closed form was never scored by the paper's authors.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ..errors import FlowError
from .knockout import CROSS_FRAME, Knockout
from .layers import LayerRange, mirror

KINDS = (CROSS_FRAME, "video:question", "question:last")
NOWHERE = "none"  # written in place of a range


def kept_range(text: str) -> LayerRange | None:
    """A range as a pathway writes it; `none` is None: this kind of edge is kept in no layer."""
    return None if text == NOWHERE else LayerRange(text)


def written(layers: range) -> str:
    """A range of layers as a pathway writes it: 6-20, or none."""
    return f"{layers[0]}-{layers[-1]}" if layers else NOWHERE


@dataclass(frozen=True)
class Pathway:
    """The ranges in which each kind of edge is kept (paper, Table E(a)); `mirrored` reverses the layers (a control).

    None: that kind is kept in no layer, so it is cut in all. Raises FlowError where that holds for all three.
    """

    cross_frame: LayerRange | None
    video_question: LayerRange | None
    question_last: LayerRange | None
    closed: bool = False
    mirrored: bool = False

    def __post_init__(self) -> None:
        if self.cross_frame is self.video_question is self.question_last is None:
            raise FlowError(
                f"pathway: {', '.join(KINDS)} are all {NOWHERE}, but a pathway must keep one of them; to cut the video "
                "off write the flow blind"
            )

    def bind(self, num_layers: int) -> BoundPathway:
        """The same for a model of `num_layers` layers. Raises FlowError for a layer that does not exist."""
        ranges: list[range] = []
        for kind, layers in zip(
            KINDS, (self.cross_frame, self.video_question, self.question_last), strict=True
        ):
            if layers is None:
                ranges.append(range(0))
                continue
            try:
                kept = layers.bind(num_layers)
            except FlowError as error:
                raise FlowError(f"pathway, {kind}: {error}") from None
            if not kept:
                raise FlowError(
                    f"pathway, {kind}: the range {layers.text!r} has no layer in a model of {num_layers} layers"
                )
            ranges.append(mirror(kept, num_layers) if self.mirrored else kept)
        return BoundPathway(ranges[0], ranges[1], ranges[2], self.closed, num_layers)


@dataclass(frozen=True)
class BoundPathway:
    """A pathway's kept ranges in a model of known depth; an empty one belongs to a kind that is kept nowhere.

    What is cut after the end of a range (`video:video`, `question:question`) is cut nowhere where the range is empty:
    there is no end to come after.
    """

    cross_frame: range
    video_question: range
    question_last: range
    closed: bool
    num_layers: int

    def cuts(self, layer: int) -> frozenset[Knockout]:
        """What is cut in one layer (counted from 1)."""
        return frozenset(self._closed_cuts(layer) if self.closed else self._released_cuts(layer))

    def entered(self) -> tuple[str, ...]:
        """The groups that video may enter, in the video:question range."""
        return ("question", "gap") if self.closed else ("question",)

    def reached(self) -> tuple[str, ...]:
        """The groups that the question may leave for, in the question:last range."""
        return ("tail", "last") if self.closed else ("last",)

    def _released_cuts(self, layer: int) -> Iterator[Knockout]:
        yield Knockout("video", "last")
        yield Knockout("last", "last")
        if layer not in self.cross_frame:
            yield Knockout(CROSS_FRAME)
        if layer not in self.video_question:
            yield Knockout("video", "question")
        if layer not in self.question_last:
            yield Knockout("question", "last")
        if self.video_question and layer > self.video_question[-1]:
            yield Knockout("video", "video")
        if self.question_last and layer > self.question_last[-1]:
            yield Knockout("question", "question")

    def _closed_cuts(self, layer: int) -> Iterator[Knockout]:
        yield from self._released_cuts(layer)
        yield Knockout("video", "tail")
        if layer not in self.video_question:
            yield Knockout("video", "gap")
        if layer not in self.question_last:
            yield Knockout("question", "tail")
            yield Knockout("gap", "tail")
            yield Knockout("gap", "last")
        if self.question_last and layer > self.question_last[-1]:
            yield Knockout("gap", "gap")
            yield Knockout("gap", "question")
