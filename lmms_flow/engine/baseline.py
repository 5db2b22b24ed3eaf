"""Arms as branches of one baseline: what full attention has computed for a prompt is not computed again.

A flow changes only the rows from the first one that loses an edge on, and only from the first layer in which it does.
The sparse engine takes everything before that from the baseline's hidden states and key/value cache. Exact.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import DynamicLayer

from ..flow import ResolvedFlow
from .decoder import decoder_layers, find_decoder
from .layer_call import LayerCall


@dataclass(frozen=True)
class Departure:
    """Where a flow leaves the baseline: `layer` is the first in which it cuts, `row` the first that loses an edge."""

    layer: int
    row: int


def departure(resolved: ResolvedFlow) -> Departure | None:
    """Where a flow leaves full attention; None for one that runs all of it anew, or all of it as it was.

    `sham` is to take the masked path everywhere, so it shares nothing.
    """
    layers = [n for n in range(1, resolved.bound.num_layers + 1) if not resolved.is_causal(n)]
    if not layers or resolved.bound.flow.kind == "sham":
        return None
    rows = [row for rectangles in resolved.rectangles.values() for row in _first_rows(rectangles)]
    if resolved.draws:
        rows.append(resolved.layout.groups["video"][0].start)
    return Departure(layers[0], min(rows))


def _first_rows(rectangles: Iterable[tuple[tuple[range, ...], tuple[range, ...]]]) -> Iterator[int]:
    """The first row of each span of queries that loses an edge: what lies above the diagonal was never there."""
    for keys, queries in rectangles:
        first_key = min(span.start for span in keys)
        for span in queries:
            if span.stop > first_key:
                yield max(span.start, first_key)


@dataclass
class Baseline:
    """What a prefill of one prompt under full attention leaves behind, for arms that depart in one of `layers`."""

    layers: frozenset[int]
    states: dict[int, Tensor] = field(default_factory=dict)  # layer -> what entered it, [1, token, width]
    positions: tuple[Tensor, ...] = ()  # what layer 1 was told of them: rotary embeddings, or position ids
    cache: Any = None  # its keys and values; generated tokens may stand behind the prompt's

    @classmethod
    def for_flows(cls, flows: Iterable[ResolvedFlow]) -> Baseline:
        """One that records what these flows need."""
        found = (departure(flow) for flow in flows)
        return cls(frozenset(each.layer for each in found if each is not None))

    @contextmanager
    def recording(self, model: nn.Module) -> Iterator[None]:
        """Inside the block, the first forward of `model` is recorded; it must be a prefill of one prompt."""
        handles = [
            layer.register_forward_pre_hook(self._record(number), with_kwargs=True)
            for number, layer in enumerate(decoder_layers(find_decoder(model)), 1)
            if number == 1 or number in self.layers
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _record(self, number: int) -> Any:
        def before_layer(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if number not in self.states:
                call = LayerCall.read(layer, args, kwargs)
                self.states[number] = call.hidden.detach()
                self.cache = call.cache
                if number == 1:
                    self.positions = _positions(call)

        return before_layer

    def serves(self, layer: int) -> bool:
        """Whether it has what a flow needs whose first layer of its own is `layer`."""
        return self.cache is not None and 1 in self.states and layer in self.states

    def keys(self, layer: int, columns: Tensor) -> tuple[Tensor, Tensor]:
        """The keys and values of some prompt tokens in a layer, [1, head, token, width] each."""
        stored = self.cache.layers[layer - 1]
        at = columns.to(stored.keys.device)
        return stored.keys[:, :, at], stored.values[:, :, at]


class Branch:
    """One flow's way off a baseline, inside the sparse engine."""

    def __init__(self, baseline: Baseline, leaves: Departure, whole: int) -> None:
        self.baseline = baseline
        self.row = leaves.row
        self.whole = whole  # layers that run in full all the same
        self.layer = max(leaves.layer, whole + 1)

    def is_of(self, call: LayerCall) -> bool:
        """Whether the baseline was recorded from this very prompt: what enters layer 1 is the same, positions too."""
        before = (self.baseline.states[1], *self.baseline.positions)
        now = (call.hidden, *_positions(call))
        return len(before) == len(now) and all(map(torch.equal, before, now))

    def skips(self, layer: int) -> bool:
        """Whether the baseline has already computed this layer."""
        return self.whole < layer < self.layer

    @property
    def entering(self) -> Tensor | None:
        """What enters the first layer of its own, [1, token, width]; None where it ran all layers before itself."""
        return self.baseline.states[self.layer] if self.layer > self.whole + 1 else None

    def lay_keys(self, cache: Any, layer: int, columns: Tensor) -> None:
        """Puts the baseline's keys of these tokens into an empty layer of the cache, in front of what will follow."""
        while len(cache.layers) < layer:
            cache.layers.append(DynamicLayer())
        keys, values = self.baseline.keys(layer, columns)
        stored = cache.layers[layer - 1]
        stored.lazy_initialization(keys, values)
        stored.keys, stored.values = keys, values


def _positions(call: LayerCall) -> tuple[Tensor, ...]:
    """What a decoder layer is told of its rows' positions."""
    if call.rotary is not None:
        return tuple(call.rotary)
    return () if call.position_ids is None else (call.position_ids,)


def branch_of(baseline: Baseline | None, resolved: Sequence[ResolvedFlow], whole: int) -> Branch | None:
    """The branch of a batch of one; None where there is no baseline, or none that fits."""
    if baseline is None or len(resolved) != 1:
        return None
    leaves = departure(resolved[0])
    if leaves is None or (leaves.layer <= whole + 1 and leaves.row == 0):
        return None
    layer = max(leaves.layer, whole + 1)
    if not baseline.serves(layer if layer > whole + 1 else 1):
        return None
    return Branch(baseline, leaves, whole)
