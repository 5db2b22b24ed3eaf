"""A flow on a model's layers, for as long as a block lasts. What may be asked of it is checked by its callers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from torch import nn

from ..errors import FlowError
from ..flow import ResolvedFlow
from .baseline import Baseline
from .both_ways import reads_both_ways
from .dense import HOW, DenseHooks
from .edge_attention import weighing_edges
from .hooks import open_blocks, opened
from .mechanisms import eagerly
from .sparse import SparseHooks
from .strips import strips_in


@contextmanager
def applied(
    model: nn.Module,
    decoder: nn.Module,
    resolved: Sequence[ResolvedFlow],
    engine: str,
    baseline: Baseline | None = None,
    continuation: Sequence[int] = (),
    how: str = HOW[0],
) -> Iterator[None]:
    """Inside the block, `model` runs under the flow. Inside another block, the cuts of both are joined.

    Raises FlowError where one of two blocks inside one another takes weights away behind the softmax.
    """
    around = open_blocks(decoder)
    if around and any(block != HOW[0] for block in (how, *(getattr(each, "how", HOW[0]) for each in around))):
        raise FlowError(
            "blocks inside one another join their cuts before the softmax alone: after_softmax takes a block of its own"
        )
    with ExitStack() as block:
        block.enter_context(eagerly())
        own_masks = reads_both_ways(model)
        if engine == "sparse" and not around and not own_masks:
            takes_strips = block.enter_context(strips_in(decoder))
            hooks: DenseHooks = SparseHooks(model, decoder, resolved, takes_strips, baseline)
        elif how != HOW[0]:
            block.enter_context(weighing_edges(decoder))
            hooks = DenseHooks(decoder, resolved, continuation, how, own_masks)
        else:  # the outer block's rows are all needed
            hooks = DenseHooks(decoder, resolved, continuation, own_masks=own_masks)
        block.callback(hooks.remove)
        block.enter_context(opened(decoder, hooks))
        yield
