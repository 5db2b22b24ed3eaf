"""Flow: what is cut. `Flow` is read from text, `BoundFlow` knows the model's depth, `ResolvedFlow` the prompt."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Literal, TypeAlias

from ..errors import FlowError
from .knockout import Knockout, Rule
from .layout import Layout
from .pathway import BoundPathway, Pathway
from .random_cut import RandomCut

if TYPE_CHECKING:
    from .leaks import Route
    from .resolve import ResolvedFlow

Kind: TypeAlias = Literal["none", "sham", "cuts", "pathway", "random"]


@dataclass(frozen=True)
class Flow:
    """A named set of attention edges to cut, for a model of any depth and any prompt.

    `Flow.load` reads the one-line language, a preset's name or a YAML file. `layers` is the depth that it was written
    for, where it says so.
    """

    kind: Kind
    name: str
    text: str
    rules: tuple[Rule, ...] = ()
    pathways: tuple[Pathway, ...] = ()
    random: RandomCut | None = None
    layers: int | None = None

    @staticmethod
    def load(text: str | os.PathLike[str], *, checkpoint: str | None = None) -> Flow:
        """Reads a flow. `checkpoint` says whose pathway `effective` is. Raises FlowError with one line."""
        from .language import load

        return load(text, checkpoint)

    @property
    def needs_masks(self) -> bool:
        """Whether the model must run with masks at all; only `none` runs it untouched."""
        return self.kind != "none"

    def groups(self) -> tuple[str, ...]:
        """The groups that must be known in a prompt before this flow can be applied to it."""
        named = [group for rule in self.rules for group in rule.knockout.groups()]
        if self.pathways:
            named += ["video", "question"]
        if self.random:
            named += ["video", *(_like(self.random.like).groups() if self.random.like else ())]
        return tuple(dict.fromkeys(named))

    def bind(self, num_layers: int) -> BoundFlow:
        """The flow in a model of `num_layers` layers. Raises FlowError for another depth or a layer out of range."""
        try:
            return _bind(self, num_layers)
        except FlowError as error:
            where = "" if self.text in str(error) else f"flow {self.text!r}: "
            raise FlowError(f"{where}{error}") from None

    def kept_edges(self, layout: Layout, num_layers: int) -> tuple[int, int]:
        """(kept, total) attention edges of one head, summed over layers, in closed form (paper, Table 3)."""
        return self.bind(num_layers).resolve(layout).kept_edges()

    def leaks(self, layout: Layout, num_layers: int) -> tuple[Route, ...]:
        """The routes by which video still reaches `last` past the flow, the shortest through each relaying group."""
        from .leaks import leaks

        return leaks(self.bind(num_layers).resolve(layout))


def _like(text: str | None) -> Flow:
    assert text is not None
    return Flow.load(text)


@dataclass(frozen=True)
class BoundFlow:
    """A flow in a model of known depth: the knockouts of each layer."""

    flow: Flow
    num_layers: int
    cuts: tuple[frozenset[Knockout], ...]
    pathway: BoundPathway | None = None
    like: BoundFlow | None = None

    @cached_property
    def digest(self) -> str:
        """12 hex digits of the flow's meaning: its kind and the cuts by layer. Names and spelling don't count."""
        random = self.flow.random
        meaning: dict[str, object] = {
            "kind": self.flow.kind,
            "cuts": [sorted(map(str, layer)) for layer in self.cuts],
        }
        if random is not None:
            share = self.like.digest if self.like else random.share
            meaning["random"] = {"seed": random.seed, "share": share}
        return hashlib.sha256(json.dumps(meaning, sort_keys=True).encode()).hexdigest()[:12]

    def resolve(self, layout: Layout) -> ResolvedFlow:
        """The flow on one prompt. Raises FlowError where it cuts nothing there or leaves a token without any key."""
        return _resolve(self, layout)

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
def _bind(flow: Flow, num_layers: int) -> BoundFlow:
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
    like = _like(flow.random.like).bind(num_layers) if flow.random and flow.random.like else None
    return BoundFlow(flow, num_layers, by_layer, pathway, like)


@lru_cache(maxsize=256)  # benchmarks repeat prompt lengths, and several read-outs ask for the same one
def _resolve(bound: BoundFlow, layout: Layout) -> ResolvedFlow:
    from .resolve import ResolvedFlow

    return ResolvedFlow.of(bound, layout)
