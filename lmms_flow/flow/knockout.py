"""A knockout: the attention edges from a source group (keys) to a target group (queries)."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import FlowError, nearest
from .layers import LayerRange
from .layout import BASE_GROUPS, GROUPS, Layout, Span, check_group, frame_number, group_rank

CROSS_FRAME = "cross_frame"
ALL = LayerRange("all")


@dataclass(frozen=True)
class Knockout:
    """Cuts the edges by which `target` reads `source`; `Knockout("cross_frame")`: frames read no earlier frame.

    The whole rectangle of the two groups goes, the diagonal included where they overlap. Source: the paper's
    "source -/-> target" (section 2.2).
    """

    source: str
    target: str | None = None

    def __post_init__(self) -> None:
        rule = repr(str(self))
        if self.source == CROSS_FRAME or self.target is None:
            if self.source != CROSS_FRAME or self.target is not None:
                valid = [CROSS_FRAME, *(f"{name}:last" for name in GROUPS)]
                raise FlowError(f"rule {rule}: write cross_frame or source:target{nearest(str(self), valid)}")
            return
        source = check_group(self.source, f"rule {rule}")
        target = check_group(self.target, f"rule {rule}")
        try:
            (source_base, source_frame), (target_base, target_frame) = group_rank(source), group_rank(target)
        except LookupError:  # where a group of the user's own lies is seen on the prompt
            return
        both_frames = frame_number(source) is not None and frame_number(target) is not None
        if source_base > target_base or (both_frames and source_frame > target_frame):
            raise self._above_diagonal()

    def __str__(self) -> str:
        return self.source if self.target is None else f"{self.source}:{self.target}"

    def _above_diagonal(self) -> FlowError:
        return FlowError(
            f"rule '{self}': no token of {self.target!r} ever reads {self.source!r}, which comes later in the prompt "
            f"(source comes first: write {self.target}:{self.source})"
        )

    def rectangles(self, layout: Layout) -> tuple[tuple[Span, Span], ...]:
        """The (keys, queries) rectangles that it cuts from the causal triangle; none where a group is empty."""
        if self.target is None:
            if layout.groups["video"] and not layout.frames:
                raise FlowError(
                    "rule 'cross_frame' needs the frames of the video: Layout(..., frames=[range(...), ...])"
                )
            starts = (range(layout.frames[0].start, frame.start) for frame in layout.frames[1:])
            return tuple(((keys,), (frame,)) for keys, frame in zip(starts, layout.frames[1:], strict=True))
        keys, queries = layout.span(self.source), layout.span(self.target)
        if not keys or not queries:
            return ()
        if keys[0].start > queries[-1].stop - 1:
            raise self._above_diagonal()
        return ((keys, queries),)

    def groups(self) -> tuple[str, ...]:
        """The groups whose tokens must be known before it can be applied."""
        return ("video",) if self.target is None else (self.source, self.target)


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


def parse_rule(text: str) -> Rule:
    """Reads `cross_frame@1-16`, `video:question`, ... Raises FlowError quoting the rule."""
    names, at, layers = text.partition("@")
    source, colon, target = names.partition(":")
    if not colon and source != CROSS_FRAME:
        valid = [CROSS_FRAME, *BASE_GROUPS]
        raise FlowError(
            f"rule {text!r}: {source!r} is neither cross_frame nor source:target{nearest(source, valid)}"
        )
    if at and not layers:
        raise FlowError(f"rule {text!r}: layers are missing after '@', such as @6-20")
    knockout = Knockout(source, target if colon else None)
    try:
        return Rule(knockout, LayerRange(layers) if at else ALL)
    except FlowError as error:
        raise FlowError(f"rule {text!r}: {error}") from None
