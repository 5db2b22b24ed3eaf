"""The reference: which edges are kept, as plain boolean masks. Every other way to run a flow must equal it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..flow import Layout, ResolvedFlow
from ..flow.given import Given, as_flow
from .columns import send


def keep_masks(flow: Given, layout: Layout, num_layers: int) -> Tensor:
    """The kept edges of every layer, bool [layer, query, key]; what lies above the diagonal is never kept.

    Args:
        flow: a flow, its text, a knockout, or a list of these.
        layout: of the prompt.
        num_layers: of the model.

    Raises:
        FlowError: the flow does not fit the layout or the depth.
    """
    flow = as_flow(flow, layout)
    resolved = flow.bind(num_layers).resolve(layout)
    if resolved.draws:  # each layer has its own
        return torch.stack([keep_mask(resolved, layer) for layer in range(1, num_layers + 1)])
    alike = {cuts: keep_mask(resolved, layers[0]) for cuts, layers in resolved.bound.distinct()}
    return torch.stack([alike[cuts] for cuts in resolved.bound.cuts])


def keep_mask(resolved: ResolvedFlow, layer: int) -> Tensor:
    """The kept edges of one layer (counted from 1), bool [query, key]."""
    num_tokens = resolved.layout.num_tokens
    keep = torch.ones(num_tokens, num_tokens, dtype=torch.bool).tril()
    for keys, queries in resolved.rectangles[resolved.bound.cuts[layer - 1]]:
        for rows in queries:
            for columns in keys:
                keep[rows.start : rows.stop, columns.start : columns.stop] = False
    drawn = resolved.drawn(layer)
    if drawn is not None:
        keep &= ~torch.from_numpy(drawn)
    return keep


class PromptMasks:
    """The masks of a block's prompts, bool [query, key]: layers alike share one, of what is drawn one is held."""

    def __init__(self, resolved: Sequence[ResolvedFlow]) -> None:
        self.resolved = resolved
        self._held: dict[tuple[int, int, torch.device], Tensor] = {}
        # sample -> the layer that was drawn last, and its mask on each device
        self._drawn: dict[int, tuple[int, dict[torch.device, Tensor]]] = {}
        self._last_rows: dict[
            tuple[int, int], Tensor
        ] = {}  # (sample, layer) -> of what was drawn, on the host

    def of(self, sample: int, layer: int, device: torch.device) -> Tensor:
        """One sample's mask in a layer (from 1)."""
        resolved = self.resolved[sample]
        if resolved.draws:  # a control's layers differ all: keeping them would fill the memory
            copies = self._draw(sample, layer)
            if device not in copies:
                copies[device] = send(copies[torch.device("cpu")], device)
            return copies[device]
        first_alike = resolved.bound.cuts.index(resolved.bound.cuts[layer - 1]) + 1
        key = (sample, first_alike, device)
        if key not in self._held:
            self._held[key] = send(keep_mask(resolved, first_alike), device)
        return self._held[key]

    def last_row(self, sample: int, layer: int, device: torch.device) -> Tensor:
        """The last token's row alone, [1, key]: of what is drawn, the only one that generated tokens need."""
        if not self.resolved[sample].draws:
            return self.of(sample, layer, device)[-1:]
        if (sample, layer) not in self._last_rows:
            self._draw(sample, layer)
        return send(self._last_rows[sample, layer], device)

    def _draw(self, sample: int, layer: int) -> dict[torch.device, Tensor]:
        if self._drawn.get(sample, (0,))[0] != layer:
            mask = keep_mask(self.resolved[sample], layer)
            self._drawn[sample] = layer, {mask.device: mask}
            self._last_rows[sample, layer] = mask[-1:].clone()
        return self._drawn[sample][1]

    def forget_drawn(self) -> None:
        """Lets go of the largest thing held, which no two layers share."""
        self._drawn.clear()

    def clear(self) -> None:
        """Lets go of everything."""
        self._held.clear()
        self._drawn.clear()
        self._last_rows.clear()
