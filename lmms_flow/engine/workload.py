"""What an engine computes and holds of one prompt, layer by layer, as far as it is known without running it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from ..flow import ResolvedFlow
from .course import Course, Setting
from .plan import RowPlan
from .windows import kept_by_layer_in


@dataclass(frozen=True)
class Workload:
    """One prompt under one engine, by the course that its hooks take."""

    resolved: ResolvedFlow
    plan: RowPlan
    course: Course

    @property
    def setting(self) -> Setting:
        """The model's."""
        return self.course.setting

    def layers(self) -> Iterator[tuple[int, int, int, int]]:
        """(rows, edges, pairs, cached) of each layer."""
        whole = self.resolved.layout.num_tokens
        for number, kept in enumerate(kept_by_layer_in(self.resolved, self.setting.windows), 1):
            if self.course.drops(number):
                rows, edges = len(self.plan.rows(number)), self.plan.num_edges(number)
                cached = len(self.plan.rows_read_by_last(number))
            else:
                rows, edges, cached = whole, kept, self._reach(number)
            strips = self.course.takes_strips(number)
            pairs = self.plan.num_pairs(number, torch.device(self.setting.device)) if strips else rows**2
            yield rows, edges, pairs, cached

    def mask_bytes(self, bytes_each: int) -> int:
        """What the hooks hold when the prefill is over, beside the masks that the model makes itself.

        A mask [query, key] has a byte an entry; joined with the model's own it takes that one's type. Strips need none
        of the prompt's: on a CPU they share a triangle of some hundred rows, which is left out here.
        """
        if not self.resolved.bound.flow.needs_masks:
            return 0
        numbers = [n for n in range(1, self.resolved.bound.num_layers + 1) if not self.course.takes_strips(n)]
        masked = [n for n in numbers if self.course.is_masked(n) and not self.course.drops(n)]
        # The prompt's mask serves later steps as well; a random control's differ in every layer and are not kept.
        prompt = [] if self.resolved.draws else [n for n in numbers if self.course.drops(n)] + masked
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
