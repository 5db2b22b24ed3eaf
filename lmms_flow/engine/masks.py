"""The reference: which edges are kept, as plain boolean masks. Every other way to run a flow must equal it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..flow import Layout, ResolvedFlow
from ..flow.given import Given, as_flow
from ..flow.knockout import CROSS_FRAME, INTRA_FRAME
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


def keep_mask(resolved: ResolvedFlow, layer: int, both_ways: bool = False) -> Tensor:
    """The kept edges of one layer (counted from 1), bool [query, key].

    With `both_ways` what lies above the diagonal is the model's own and is kept here as far as no knockout takes it;
    `cross_frame` then cuts both directions between frames.
    """
    num_tokens = resolved.layout.num_tokens
    keep = torch.ones(num_tokens, num_tokens, dtype=torch.bool)
    cuts = resolved.bound.cuts[layer - 1]
    if not both_ways:
        keep = keep.tril()
    else:
        _cut_upwards(keep, {str(cut) for cut in cuts}, resolved.layout.frames)
    for keys, queries in resolved.rectangles[cuts]:
        for rows in queries:
            for columns in keys:
                keep[rows.start : rows.stop, columns.start : columns.stop] = False
    drawn = resolved.drawn(layer)
    if drawn is not None:
        keep &= ~torch.from_numpy(drawn)
    return keep


def _cut_upwards(keep: Tensor, cuts: set[str], frames: Sequence[range]) -> None:
    """What knockouts with a name cut above the diagonal: between frames, or within each."""
    for frame in frames:
        if CROSS_FRAME in cuts:
            keep[frame.start : frame.stop, frame.stop : frames[-1].stop] = False
        if INTRA_FRAME in cuts:
            keep[frame.start : frame.stop, frame.start : frame.stop] = keep.new_ones(
                len(frame), len(frame)
            ).tril()


class PromptMasks:
    """The masks of a block's prompts, bool [query, key]: layers alike share one, of what is drawn one is held."""

    def __init__(self, resolved: Sequence[ResolvedFlow]) -> None:
        self.resolved = resolved
        self._held: dict[tuple[int, int, torch.device, bool], Tensor] = {}
        # sample -> the layer that was drawn last, and its mask on each device
        self._drawn: dict[int, tuple[int, dict[torch.device, Tensor]]] = {}
        self._last_rows: dict[
            tuple[int, int], Tensor
        ] = {}  # (sample, layer) -> of what was drawn, on the host

    def of(self, sample: int, layer: int, device: torch.device, both_ways: bool = False) -> Tensor:
        """One sample's mask in a layer (from 1); `both_ways` as for :func:`keep_mask`."""
        resolved = self.resolved[sample]
        if resolved.draws and both_ways:
            return send(keep_mask(resolved, layer, both_ways), device)
        if resolved.draws:  # a control's layers differ all: keeping them would fill the memory
            copies = self._draw(sample, layer)
            if device not in copies:
                copies[device] = send(copies[torch.device("cpu")], device)
            return copies[device]
        first_alike = resolved.bound.cuts.index(resolved.bound.cuts[layer - 1]) + 1
        key = (sample, first_alike, device, both_ways)
        if key not in self._held:
            self._held[key] = send(keep_mask(resolved, first_alike, both_ways), device)
        return self._held[key]

    def last_row(self, sample: int, layer: int, device: torch.device) -> Tensor:
        """What generated tokens read of the prompt, [1, key]: the last token's row without what is cut from them.

        Of what is drawn it is the only row that they need.
        """
        if not self.resolved[sample].draws:
            row = self.of(sample, layer, device)[-1:]
            cut = self.resolved[sample].cut_from_generated(layer)
            if cut:
                row = row.clone()
                for span in cut:
                    row[:, span.start : span.stop] = False
            return row
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
