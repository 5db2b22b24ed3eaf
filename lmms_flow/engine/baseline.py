"""Arms as branches of one baseline: what full attention has computed for a prompt is not computed again.

A flow changes only the rows from the first one that loses an edge on, and only from the first layer in which it does.
The sparse engine takes everything before that from the baseline's hidden states and key/value cache. Exact.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import DynamicLayer

from ..errors import FlowError
from ..flow import ResolvedFlow
from .columns import Columns
from .decoder import decoder_layers, module_of
from .departure import Departure, departure
from .hooks import Handles, open_blocks
from .layer_call import LayerCall, over_parts
from .mechanisms import check_mechanisms, eagerly
from .model_state import ModelState, are_equal


@dataclass
class Baseline:
    """What a prefill of one prompt under full attention leaves behind, for arms that depart in one of `layers`."""

    layers: frozenset[int]
    states: dict[int, Tensor] = field(default_factory=dict)  # layer -> what entered it, [1, token, width]
    positions: tuple[Tensor, ...] = ()  # what layer 1 was told of them: rotary embeddings, or position ids
    cache: Any = None  # its keys and values; generated tokens may stand behind the prompt's
    own_mask: Tensor | None = None  # what the model itself gave layer 1 for a mask
    model_state: ModelState | None = None  # the model that it was recorded on, as it was
    ends: tuple[
        Tensor, ...
    ] = ()  # each layer's key of the last prompt token, once the forward came to its end

    @classmethod
    def for_flows(cls, flows: Iterable[ResolvedFlow]) -> Baseline:
        """One that records what these flows need."""
        found = (departure(flow) for flow in flows)
        return cls(frozenset(each.layer for each in found if each is not None))

    @contextmanager
    def recording(self, model: Any) -> Iterator[None]:
        """Inside the block, the first forward of `model` is recorded; it must be a prefill of one prompt.

        Raises UnsupportedModelError for a model that no flow can go on from, and FlowError inside another flow's block.
        """
        decoder = check_mechanisms(module_of(model))
        handles, thread = Handles(), threading.get_ident()
        try:
            for number, layer in enumerate(decoder_layers(decoder), 1):
                if number == 1 or number in self.layers:
                    handles.before(layer, self._record(number, decoder, thread))
            handles.after(decoder, self._finish)
            with eagerly():
                yield
        finally:
            handles.remove()

    def _record(self, number: int, decoder: nn.Module, thread: int) -> Any:
        def before_layer(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if threading.get_ident() != thread:
                raise FlowError(
                    "the model was called from another thread than the one that records a baseline"
                )
            if self.ends:
                return
            if open_blocks(decoder):
                raise FlowError("a baseline is full attention: it can't be recorded inside a flow's block")
            call = LayerCall.read(layer, args, kwargs)
            if number == 1:  # the forward before it broke off, or there was none
                self.states.clear()
                self.cache, self.positions, self.own_mask = call.cache, _positions(call), call.mask
                self.model_state = ModelState.of(decoder)
            self.states[number] = call.hidden.detach()

        return before_layer

    def _finish(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        if not self.ends and self.cache is not None:
            self.ends = tuple(self._keys_of_last())

    def _keys_of_last(self) -> Iterator[Tensor]:
        """Each layer's key of the last prompt token, [1, head, width]: it hangs on all that stands before it."""
        at = self.states[1].shape[1] - 1
        for layer in self.cache.layers:
            if type(layer) is DynamicLayer and layer.keys is not None and layer.keys.ndim == 4:
                yield layer.keys[:, :, at].clone()

    def serves(self, layer: int) -> bool:
        """Whether it has what a flow needs whose first layer of its own is `layer`."""
        return bool(self.ends) and layer in self.states

    def is_of(self, decoder: nn.Module, call: LayerCall) -> bool:
        """Whether it was recorded from the very prompt of this call of layer 1, on the model as it is now."""
        if self.cache is None or self.cache.get_seq_length() < self.states[1].shape[1]:
            return False  # somebody took its keys away
        ends = tuple(self._keys_of_last())
        if len(ends) != len(self.ends) or not are_equal(zip(self.ends, ends, strict=True)):
            return False  # or put others in their place
        if torch.is_grad_enabled() and any(each.requires_grad for each in decoder.parameters()):
            return False  # no gradient goes back through what was computed before
        before, now = (self.states[1], *self.positions), (call.hidden, *_positions(call))
        if len(before) != len(now) or not are_equal(zip(before, now, strict=True)):
            return False
        if self.own_mask is not call.mask and not _are_equal_masks(self.own_mask, call.mask):
            return False
        return self.model_state is not None and self.model_state.equals(ModelState.of(decoder))

    def keys(self, layer: int, columns: Columns) -> tuple[Tensor, Tensor]:
        """The keys and values of some prompt tokens in a layer, [1, head, token, width] each."""
        stored = self.cache.layers[layer - 1]
        at = columns.index(stored.keys.device)[0]
        return stored.keys[:, :, at], stored.values[:, :, at]


class Branch:
    """One flow's way off a baseline, inside the sparse engine."""

    def __init__(self, baseline: Baseline, leaves: Departure, whole: int, decoder: nn.Module) -> None:
        self.baseline = baseline
        self._decoder = decoder
        self.row = leaves.row
        self.whole = whole  # layers that run in full all the same
        self.layer = max(leaves.layer, whole + 1)

    def is_of(self, call: LayerCall) -> bool:
        """Whether the baseline is of the very prompt of this call of layer 1."""
        return self.baseline.is_of(self._decoder, call)

    def skips(self, layer: int) -> bool:
        """Whether the baseline has already computed this layer."""
        return self.whole < layer < self.layer

    @property
    def entering(self) -> Tensor | None:
        """What enters the first layer of its own, [1, token, width]; None where it ran all layers before itself."""
        return self.baseline.states[self.layer] if self.layer > self.whole + 1 else None

    def lay_keys(self, cache: Any, layer: int, columns: Columns) -> None:
        """Puts the baseline's keys of these tokens into an empty layer of the cache, in front of what will follow."""
        while len(cache.layers) < layer:
            cache.layers.append(DynamicLayer())
        keys, values = self.baseline.keys(layer, columns)
        stored = cache.layers[layer - 1]
        stored.lazy_initialization(keys, values)
        stored.keys, stored.values = keys, values


def _are_equal_masks(one: Any, other: Any) -> bool:
    """Whether both are tensors that hold the same."""
    return isinstance(one, Tensor) and isinstance(other, Tensor) and are_equal([(one, other)])


def _positions(call: LayerCall) -> tuple[Tensor, ...]:
    """What a decoder layer is told of its rows' positions."""
    if call.rotary is not None:
        parts: list[Tensor] = []
        over_parts(call.rotary, parts.append)
        return tuple(parts)
    return () if call.position_ids is None else (call.position_ids,)


def branch_of(
    baseline: Baseline | None, resolved: Sequence[ResolvedFlow], whole: int, decoder: nn.Module
) -> Branch | None:
    """The branch of a batch of one; None where there is no baseline, or none that fits."""
    if baseline is None or len(resolved) != 1:
        return None
    leaves = departure(resolved[0])
    if leaves is None or (leaves.layer <= whole + 1 and leaves.row == 0):
        return None
    layer = max(leaves.layer, whole + 1)
    if not baseline.serves(layer if layer > whole + 1 else 1):
        return None
    return Branch(baseline, leaves, whole, decoder)
