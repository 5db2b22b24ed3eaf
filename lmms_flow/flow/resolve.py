"""A flow in a model and on a prompt: the knockouts of each layer, rectangles, kept edges, and what must not happen."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import chain, pairwise
from typing import TYPE_CHECKING, Any

from ..errors import FlowError
from .blocks import Blocks, Rectangles
from .controls import UNCUT
from .essential import essential
from .knockout import Knockout
from .layout import ANSWER, Layout, Span, merge
from .pathway import BoundPathway
from .random_cut import check_eligible, draw, draw_counts
from .spec import FlowSpec

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class BoundFlow:
    """A flow in a model of known depth: the knockouts of each layer."""

    flow: FlowSpec
    num_layers: int
    cuts: tuple[frozenset[Knockout], ...]
    pathway: BoundPathway | None = None
    like: BoundFlow | None = None

    @cached_property
    def digest(self) -> str:
        """12 hex digits of the flow's meaning: its kind and the cuts by layer. Names and spelling don't count.

        Nor does what is said twice, such as `frame.0:last` beside `video:last`.
        """
        random = self.flow.random
        meaning: dict[str, object] = {
            "kind": self.flow.kind,
            "cuts": [essential(layer) for layer in self.cuts],
        }
        if random is not None:
            share = self.like.digest if self.like else random.share
            meaning["random"] = {"seed": random.seed, "share": share}
        return hashlib.sha256(json.dumps(meaning, sort_keys=True).encode()).hexdigest()[:12]

    def strips(self) -> list[tuple[str, list[bool]]]:
        """A row for each kind of edge: its name, and for each layer whether it is cut there."""
        kinds = sorted({str(cut) for cuts in self.cuts for cut in cuts})
        return [(kind, [kind in map(str, cuts) for cuts in self.cuts]) for kind in kinds]

    def plot(self, ax: Any = None) -> Any:
        """Draws which edges are cut in which layers; returns the axes, of a new figure where none are given."""
        from ..notebook import axes_of
        from ..plots import draw_strips

        axes, rows = axes_of(ax, height=0.9 + 0.3 * max(1, len(self.strips()))), self.strips()
        draw_strips(axes, rows, self.num_layers, "random draws" if self.flow.random else "nothing is cut")
        return axes

    def _repr_html_(self) -> str:
        return self.html()

    def html(self, notes: tuple[str, ...] = ()) -> str:
        """The strip of its layers, as a notebook shows it; `notes` stand below."""
        from ..notebook import strips

        random = self.flow.random is not None
        nothing = "edges drawn at random in each layer" if random else "nothing is cut"
        rows = self.strips() or [(nothing, [random] * self.num_layers)]
        title = f"flow {self.flow.name}, {self.num_layers} layers, digest {self.digest}"
        return strips(title, rows, notes)

    def resolve(self, layout: Layout) -> ResolvedFlow:
        """The flow on one prompt. Raises FlowError where it cuts nothing there or leaves a token without any key."""
        return resolve(self, layout)

    def rules(self) -> tuple[str, ...]:
        """The cuts as rules of the one-line language, one for each run of layers: `video:question@1-5`.

        Joined by `+` they cut the same. A random control has none: its draws are no rectangles.
        """
        kinds = sorted({str(cut) for layer in self.cuts for cut in layer})
        found = []
        for kind in kinds:
            layers = [n for n, layer in enumerate(self.cuts, 1) if kind in map(str, layer)]
            starts = [n for n in layers if n - 1 not in layers]
            stops = [n for n in layers if n + 1 not in layers]
            found += [f"{kind}@{a}-{b}" for a, b in zip(starts, stops, strict=True)]
        return tuple(found)

    def distinct(self) -> Iterator[tuple[frozenset[Knockout], tuple[int, ...]]]:
        """The different sets of knockouts, each with the layers (from 1) that have it, in order of first use."""
        for cuts in dict.fromkeys(self.cuts):
            yield cuts, tuple(layer for layer, other in enumerate(self.cuts, 1) if other == cuts)


@lru_cache(maxsize=64)  # every sample of a run asks for the same one
def bind(flow: FlowSpec, num_layers: int) -> BoundFlow:
    """The knockouts of each layer in a model of `num_layers` layers.

    Raises FlowError for another depth than the flow was written for, and for a layer out of range.
    """
    if flow.layers is not None and flow.layers != num_layers:
        raise FlowError(f"flow {flow.name!r} is for {flow.layers} layers, the model has {num_layers}")
    bound = tuple(pathway.bind(num_layers) for pathway in flow.pathways)
    cuts = [{cut for pathway in bound for cut in pathway.cuts(layer)} for layer in range(1, num_layers + 1)]
    for rule in flow.rules:
        for layer in rule.bind(num_layers):
            cuts[layer - 1].add(rule.knockout)
    by_layer = tuple(frozenset(layer) for layer in cuts)
    if flow.kind in ("cuts", "pathway") and not any(by_layer):
        raise FlowError(f"flow {flow.text!r} cuts nothing in a model of {num_layers} layers")
    pathway = bound[0] if flow.kind == "pathway" else None
    like = bind(flow.like, num_layers) if flow.like else None
    return BoundFlow(flow, num_layers, by_layer, pathway, like)


@dataclass(frozen=True)
class ResolvedFlow:
    """A flow that can be run: checked against the model's depth and the prompt's layout."""

    bound: BoundFlow
    layout: Layout
    rectangles: Mapping[frozenset[Knockout], Rectangles]
    empty: tuple[str, ...]
    draws: tuple[int, ...] = ()

    @classmethod
    def of(cls, bound: BoundFlow, layout: Layout) -> ResolvedFlow:
        """Resolves and checks; see `BoundFlow.resolve`."""
        by_knockout = {cut: cut.rectangles(layout) for cut in sorted(frozenset().union(*bound.cuts), key=str)}
        rectangles = {
            cuts: tuple(rect for cut in sorted(cuts, key=str) for rect in by_knockout[cut])
            for cuts in set(bound.cuts)
        }
        empty = tuple(
            str(cut)
            for cut, rects in by_knockout.items()
            if not rects and not (cut.target == ANSWER and layout.span(cut.source))
        )
        resolved = cls(bound, layout, rectangles, empty, _draws(bound, layout))
        resolved._check()
        return resolved

    @cached_property
    def segments(self) -> tuple[range, ...]:
        """The prompt in pieces between which every cut is all or nothing."""
        borders = {0, self.layout.num_tokens, *self.layout.borders()}
        for rectangle in chain.from_iterable(self.rectangles.values()):
            borders.update(end for span in rectangle for part in span for end in (part.start, part.stop))
        return tuple(range(a, b) for a, b in pairwise(sorted(borders)))

    @cached_property
    def _blocks(self) -> Mapping[frozenset[Knockout], Blocks]:
        return {cuts: Blocks.of(self.segments, rects) for cuts, rects in self.rectangles.items()}

    def blocks(self, layer: int) -> Blocks:
        """One layer's mask in blocks, the random draws left out."""
        return self._blocks[self.bound.cuts[layer - 1]]

    def drawn(self, layer: int) -> NDArray[np.bool_] | None:
        """The pairs that a random control cuts in one layer, bool [query, key]; None for every other flow."""
        random = self.bound.flow.random
        return draw(self.layout, layer, self.draws[layer - 1], random.seed) if random else None

    def kept_by_layer(self) -> tuple[int, ...]:
        """The attention edges kept in each layer, of one head."""
        counts = {cuts: blocks.num_edges() for cuts, blocks in self._blocks.items()}
        draws = self.draws or (0,) * self.bound.num_layers
        return tuple(counts[cuts] - drawn for cuts, drawn in zip(self.bound.cuts, draws, strict=True))

    def kept_edges(self) -> tuple[int, int]:
        """(kept, total) attention edges of one head, summed over layers."""
        triangle = self.layout.num_tokens * (self.layout.num_tokens + 1) // 2
        return sum(self.kept_by_layer()), triangle * self.bound.num_layers

    def is_causal(self, layer: int) -> bool:
        """Whether nothing at all is cut in this layer."""
        return not self.rectangles[self.bound.cuts[layer - 1]] and not (self.draws and self.draws[layer - 1])

    def cut_from_generated(self, layer: int) -> Span:
        """The prompt tokens that generated tokens don't read in a layer beside those that `last` does not read.

        A generated token belongs to the answer: it takes the cuts of `last` and those whose target is `answer`.
        """
        cuts = self.bound.cuts[layer - 1]
        return merge(r for cut in cuts if cut.target == ANSWER for r in self.layout.span(cut.source))

    @property
    def cuts_generated(self) -> bool:
        """Whether a rule cuts generated tokens off from anything, also where it cuts nothing of the prompt."""
        return any(map(self.cut_from_generated, range(1, self.bound.num_layers + 1)))

    def _check(self) -> None:
        flow = self.bound.flow
        kept, total = self.kept_edges()
        if kept == total and flow.kind not in UNCUT and not self.cuts_generated:
            why = f" ({', '.join(self.empty)}: a group is empty)" if self.empty else ""
            raise FlowError(f"flow {flow.text!r} cuts nothing in this prompt{why}")
        for cuts, layers in self.bound.distinct():
            for segment, bits in zip(self.segments, self._blocks[cuts].kept, strict=True):
                if not bits:
                    token = f"token {segment.start} ({self.layout.group_of(segment.start)})"
                    raise FlowError(
                        f"flow {flow.text!r} leaves {token} without any key in layer {layers[0]}"
                        " (a token must read at least one token)"
                    )
        if self.draws and not self.layout.groups["system"]:
            self._check_drawn_rows()

    def _check_drawn_rows(self) -> None:
        """Without a system group a random draw may hit every key of a row."""
        import numpy as np

        causal = np.tril(np.ones((self.layout.num_tokens, self.layout.num_tokens), dtype=np.bool_))
        for layer in range(1, self.bound.num_layers + 1):
            drawn = self.drawn(layer)
            assert drawn is not None
            bare = np.flatnonzero(~(causal & ~drawn).any(axis=1))
            if len(bare):
                raise FlowError(
                    f"flow {self.bound.flow.text!r} leaves token {bare[0]} without any key in layer {layer}: this "
                    "prompt has no tokens before the video; take a smaller share or another seed"
                )


def _draws(bound: BoundFlow, layout: Layout) -> tuple[int, ...]:
    """How many pairs a random control cuts in each layer."""
    random = bound.flow.random
    if random is None:
        return ()
    if bound.like is not None:
        kept, total = bound.like.resolve(layout).kept_edges()
        return draw_counts(total - kept, bound.num_layers, layout)
    assert random.share is not None
    count = int(layout.num_tokens * (layout.num_tokens + 1) // 2 * random.share)
    check_eligible(count, layout)
    return (count,) * bound.num_layers


@lru_cache(maxsize=256)  # benchmarks repeat prompt lengths, and several read-outs ask for the same one
def resolve(bound: BoundFlow, layout: Layout) -> ResolvedFlow:
    """A bound flow on one prompt. Raises FlowError where it cuts nothing there or leaves a token without any key."""
    return ResolvedFlow.of(bound, layout)
