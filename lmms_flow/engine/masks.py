"""The reference: which edges are kept, as plain boolean masks. Every other way to run a flow must equal it."""

from __future__ import annotations

import torch
from torch import Tensor

from ..flow import Flow, Layout, ResolvedFlow


def keep_masks(flow: Flow | str, layout: Layout, num_layers: int) -> Tensor:
    """The kept edges of every layer, bool [layer, query, key]; what lies above the diagonal is never kept.

    Raises FlowError where the flow does not fit the layout or the depth.
    """
    flow = Flow.load(flow) if isinstance(flow, str) else flow
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
