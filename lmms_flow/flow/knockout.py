"""A knockout: the attention edges from a source group (keys) to a target group (queries)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

from ..errors import FlowError, nearest
from .layers import LayerRange
from .layout import BASE_GROUPS, GROUPS, Layout, Span, check_group, frame_number, group_ranks

CROSS_FRAME, INTRA_FRAME = "cross_frame", "intra_frame"
NAMED = (CROSS_FRAME, INTRA_FRAME)  # rules that are no pair of groups
Rectangle: TypeAlias = tuple[Span, Span]  # (keys, queries)
ALL = LayerRange("all")


@dataclass(frozen=True)
class Knockout:
    """Cuts the edges by which `target` reads `source`.

    The whole rectangle of the two groups goes, the diagonal included where they overlap. Source: the paper's
    "source -/-> target" (section 2.2). Two have a name instead: under `Knockout("cross_frame")` frames read no earlier
    frame, and under `Knockout("intra_frame")` a frame's tokens read no other token of their own frame.
    """

    source: str
    target: str | None = None

    def __post_init__(self) -> None:
        rule = repr(str(self))
        if self.source in NAMED or self.target is None:
            if self.source not in NAMED or self.target is not None:
                valid = [*NAMED, *(f"{name}:last" for name in GROUPS)]
                raise FlowError(
                    f"rule {rule}: write {', '.join(NAMED)} or source:target{nearest(str(self), valid)}"
                )
            return
        source = check_group(self.source, f"rule {rule}")
        target = check_group(self.target, f"rule {rule}")
        try:
            above = group_ranks(source)[0] > group_ranks(target)[1] or _later_frame(source, target)
        except LookupError:  # where a group of the user's own lies is seen on the prompt
            above = False
        if above:
            raise self._above_diagonal()
        object.__setattr__(self, "source", source)
        object.__setattr__(self, "target", target)

    def __str__(self) -> str:
        return self.source if self.target is None else f"{self.source}:{self.target}"

    def _above_diagonal(self) -> FlowError:
        return FlowError(
            f"rule '{self}': no token of {self.target!r} ever reads {self.source!r}, which comes later in the prompt "
            f"(source comes first: write {self.target}:{self.source})"
        )

    def rectangles(self, layout: Layout) -> tuple[Rectangle, ...]:
        """The (keys, queries) rectangles that it cuts from the causal triangle; none where a group is empty."""
        if self.target is None:
            if layout.groups["video"] and not layout.frames:
                raise FlowError(
                    f"rule '{self}' needs the frames of the video: Layout(..., frames=[range(...), ...])"
                )
            return tuple((_across if self.source == CROSS_FRAME else _within)(layout.frames))
        keys, queries = layout.span(self.source), layout.span(self.target)
        if not keys or not queries:
            return ()
        if keys[0].start > queries[-1].stop - 1:
            raise self._above_diagonal()
        return ((keys, queries),)

    def groups(self) -> tuple[str, ...]:
        """The groups whose tokens must be known before it can be applied."""
        return ("video",) if self.target is None else (self.source, self.target)


def _later_frame(source: str, target: str) -> bool:
    """Whether the source is a later frame than the target in every prompt."""
    first, second = frame_number(source), frame_number(target)
    return first is not None and second is not None and (first < 0) == (second < 0) and first > second


def _across(frames: tuple[range, ...]) -> Iterator[Rectangle]:
    """Each frame reads the frames before it."""
    for frame in frames[1:]:
        yield (range(frames[0].start, frame.start),), (frame,)


def _within(frames: tuple[range, ...]) -> Iterator[Rectangle]:
    """Each token reads the tokens before it in its own frame; the token itself stays."""
    for frame in frames:
        for token in frame[1:]:
            yield (range(frame.start, token),), (range(token, token + 1),)


@dataclass(frozen=True)
class Rule:
    """A knockout in a range of layers: one rule of the one-line language, such as `video:question@6-20`."""

    knockout: Knockout
    layers: LayerRange = ALL

    def __str__(self) -> str:
        return str(self.knockout) if self.layers.text == "all" else f"{self.knockout}@{self.layers.text}"

    def bind(self, num_layers: int) -> range:
        """The layers in which it cuts, from 1. Raises FlowError quoting the rule."""
        try:
            return self.layers.bind(num_layers)
        except FlowError as error:
            raise FlowError(f"rule '{self}': {error}") from None


def parse_rules(text: str) -> tuple[Rule, ...]:
    """Reads `cross_frame@1-16`, `video:question`, `video:last@1-5/9-12`, ...: one rule for each range of layers.

    Raises FlowError quoting the rule.
    """
    names = text.partition("@")[0]
    source, colon, target = names.partition(":")
    if not colon and source not in NAMED:
        valid = [*NAMED, *BASE_GROUPS]
        raise FlowError(
            f"rule {text!r}: {source!r} is neither {' nor '.join(NAMED)} nor source:target{nearest(source, valid)}"
        )
    knockout = Knockout(source, target if colon else None)
    return tuple(Rule(knockout, each) for each in parse_layers(text))


def parse_layers(rule: str) -> tuple[LayerRange, ...]:
    """The ranges of layers behind a rule's `@`, one or several joined by `/`; all layers where there is no `@`."""
    _, at, layers = rule.partition("@")
    if not at:
        return (ALL,)
    if not layers:
        raise FlowError(f"rule {rule!r}: layers are missing after '@', such as @6-20")
    try:
        return tuple(LayerRange(each) for each in layers.split("/"))
    except FlowError as error:
        raise FlowError(f"rule {rule!r}: {error}") from None
