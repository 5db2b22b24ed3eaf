"""What an engine computes and holds of one prompt, layer by layer, as far as it is known without running it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn

from ..flow import ResolvedFlow
from .decoder import attention_implementation, find_decoder, rows_keep_their_places
from .layer_call import can_keep_one
from .plan import RowPlan
from .sparse import layers_with_visual_features
from .windows import has_windows, kept_by_layer_in, layer_windows


@dataclass(frozen=True)
class Setting:
    """What of a model decides how a flow is run on it. The defaults are those of most models of transformers."""

    sdpa: bool = True  # its attention; otherwise eager, which adds masks to the scores
    device: str = "cuda"  # the type: long prompts and strips run otherwise on a CPU
    drops_rows: bool = True  # whether the sparse engine may drop rows
    undropped: int = 1  # layers that it leaves whole
    keeps_one: bool = True  # whether the head runs on the last row alone
    windows: tuple[int | None, ...] = ()  # how far back each layer reads; empty where all read everything

    @classmethod
    def of(cls, model: nn.Module) -> Setting:
        """Reads it off a loaded model."""
        decoder = find_decoder(model)
        keeps_one = can_keep_one(model)
        return cls(
            sdpa=attention_implementation(decoder) != "eager",
            device=next(decoder.parameters()).device.type,
            drops_rows=keeps_one and not has_windows(decoder) and not rows_keep_their_places(decoder),
            undropped=max(1, layers_with_visual_features(model)),
            keeps_one=keeps_one,
            windows=layer_windows(decoder),
        )

    def window(self, layer: int) -> int | None:
        """How many tokens a layer (from 1) reads back, itself included; None: all."""
        return self.windows[layer - 1] if self.windows else None


@dataclass(frozen=True)
class Workload:
    """One prompt under one engine, as `DenseHooks` and `SparseHooks` run it."""

    resolved: ResolvedFlow
    plan: RowPlan
    setting: Setting
    sparse: bool

    def layers(self) -> Iterator[tuple[int, int, int, int]]:
        """(rows, edges, pairs, cached) of each layer."""
        whole = self.resolved.layout.num_tokens
        for number, kept in enumerate(kept_by_layer_in(self.resolved, self.setting.windows), 1):
            if self._drops(number):
                rows, edges = len(self.plan.rows(number)), self.plan.num_edges(number)
                cached = len(self.plan.rows_read_by_last(number))
            else:
                rows, edges, cached = whole, kept, self._reach(number)
            strips = self._takes_strips(number)
            pairs = self.plan.num_pairs(number, torch.device(self.setting.device)) if strips else rows**2
            yield rows, edges, pairs, cached

    def mask_bytes(self, bytes_each: int) -> int:
        """What the hooks hold when the prefill is over, beside the masks that the model makes itself.

        A mask [query, key] has a byte an entry; joined with the model's own it takes that one's type. Strips need none
        of the prompt's: on a CPU they share a triangle of some hundred rows, which is left out here.
        """
        if not self.resolved.bound.flow.needs_masks:
            return 0
        numbers = [n for n in range(1, self.resolved.bound.num_layers + 1) if not self._takes_strips(n)]
        masked = [n for n in numbers if self._is_masked(n) and not self._drops(n)]
        # The prompt's mask serves later steps as well; a random control's differ in every layer and are not kept.
        prompt = [] if self.resolved.draws else [n for n in numbers if self._drops(n)] + masked
        joined = {(self._cuts(n), self.setting.window(n)): self._own_entry(n, bytes_each) for n in masked}
        entries = (
            len({self._cuts(n) for n in prompt}) + len({self._cuts(n) for n in masked}) + sum(joined.values())
        )
        return entries * self.resolved.layout.num_tokens**2

    def _own_entry(self, layer: int, bytes_each: int) -> int:
        """Bytes of an entry of the mask that the model makes itself for a layer, 0 where it makes none."""
        if not self.setting.sdpa:
            return bytes_each
        return int(self._reach(layer) < self.resolved.layout.num_tokens)

    def _reach(self, layer: int) -> int:
        """The tokens whose keys and values a layer's cache holds for the next token."""
        window = self.setting.window(layer)
        whole = self.resolved.layout.num_tokens
        return whole if window is None else min(whole, window - 1)

    def _cuts(self, layer: int) -> object:
        """Layers alike in this share a mask."""
        return layer if self.resolved.draws else self.resolved.bound.cuts[layer - 1]

    def _is_masked(self, layer: int) -> bool:
        """Whether a layer is given a mask of the flow's at all."""
        return self.resolved.bound.flow.kind == "sham" or not self.resolved.is_causal(layer)

    def _drops(self, layer: int) -> bool:
        """Whether rows may be dropped before this layer."""
        flow = self.resolved.bound.flow
        allowed = self.sparse and self.setting.drops_rows and flow.needs_masks and flow.kind != "sham"
        return allowed and layer > self.setting.undropped

    def _takes_strips(self, layer: int) -> bool:
        """Whether its attention runs in strips instead of under a mask."""
        flow = self.resolved.bound.flow
        made_of_blocks = flow.needs_masks and flow.kind != "sham" and not self.resolved.draws
        able = self.sparse and self.setting.sdpa and self.setting.drops_rows
        return able and made_of_blocks and (self._drops(layer) or self._is_masked(layer))
