"""A model whose knockouts have gates: 1 leaves the edges as they are, 0 cuts them, and between the two it is smooth."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import FlowError
from ..flow import Knockout, Layout, ResolvedFlow
from .decoder import decoder_layers, module_of
from .dense import DenseHooks, check_causal
from .edge_attention import Gated, weighing_edges
from .hooks import open_blocks, opened
from .layer_call import LayerCall
from .masks import keep_mask
from .mechanisms import check_mechanisms, eagerly
from .positions import Positions
from .proof import prove
from .walks import as_knockout, resolve_knockout
from .windows import check_windows, layer_windows


class _GateStep:
    """One forward in which every layer is given its gates."""

    def __init__(self, gates: Tensor, keep: Tensor, layers: Collection[int], positions: Positions) -> None:
        self._gates, self._keep, self._layers, self._positions = gates, keep, layers, positions

    def prepare(self, layer: int, call: LayerCall) -> LayerCall:
        """The call with the layer's gates in the place of its mask, where the layer has gates."""
        if layer not in self._layers:
            return call
        if call.mask is not None:
            check_causal(call.mask, self._positions)
        device = call.hidden.device
        return call.with_parts(
            mask=Gated(call.mask, self._gates[:, layer - 1].to(device), self._keep.to(device))
        )

    def leave(self, layer: int, cache: Any) -> None:
        """Nothing is done behind a layer."""


class _GateHooks(DenseHooks):
    """Hooks that give each decoder layer its gates."""

    def __init__(
        self,
        decoder: nn.Module,
        knockouts: Sequence[ResolvedFlow],
        gates: Tensor,
        layers: Collection[int],
    ) -> None:
        self._gates, self._keep = gates, torch.stack([keep_mask(each, 1) for each in knockouts])
        self._layers = layers
        super().__init__(decoder, knockouts[:1])

    def _step_of(self, call: Any, positions: Positions) -> Any:
        return _GateStep(self._gates, self._keep, self._layers, positions)


@contextmanager
def gated(
    model: Any,
    layout: Layout,
    knockouts: Sequence[Knockout | str],
    gates: Tensor,
    layers: Collection[int] | None = None,
) -> Iterator[None]:
    """Inside the block, one prompt runs under knockouts that are closed so far (see `Gated`).

    Args:
        model: a decoder or VideoLLM of transformers, or what `lmms_flow.load` gave.
        layout: of the prompt.
        knockouts: rules without layers.
        gates: [knockout, layer], from 0 to 1. Gradients flow into them.
        layers: that have gates, from 1, all by default; the others run as they are.

    Raises:
        FlowError: the gates don't fit, or another block is open.
        UnsupportedModelError: the model's attention can't be weighed.
    """
    module = module_of(model)
    decoder = check_mechanisms(module)
    if open_blocks(decoder):
        raise FlowError("gates can't be put on inside a block of intervene: they stand beside full attention")
    depth = len(decoder_layers(decoder))
    if gates.shape != (len(knockouts), depth) or not knockouts:
        raise FlowError(
            f"the gates are {list(gates.shape)} for {len(knockouts)} knockouts (one at the least) in {depth} layers"
        )
    resolved = [resolve_knockout(as_knockout(each), layout, depth) for each in knockouts]
    check_windows(resolved, layer_windows(decoder))
    if not bool(((gates >= 0) & (gates <= 1)).all()):
        raise FlowError("a gate lies between 0 (the edge is cut) and 1 (it is left as it is)")
    everywhere = range(1, depth + 1)
    layers = everywhere if layers is None else layers
    without = [layer - 1 for layer in everywhere if layer not in layers]
    if len(without) + len(set(layers)) != depth or not bool((gates[:, without] == 1).all()):
        raise FlowError(
            f"layers {sorted(layers)} have gates: they must be layers of 1-{depth}, and all other gates open (1)"
        )
    prove(module)
    with ExitStack() as block:
        block.enter_context(eagerly())
        block.enter_context(weighing_edges(decoder))
        hooks = _GateHooks(decoder, resolved, gates, layers)
        block.callback(hooks.remove)
        block.enter_context(opened(decoder, hooks))
        yield
