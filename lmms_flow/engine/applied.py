"""A flow on a model's layers, for as long as a block lasts. What may be asked of it is checked by its callers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from torch import nn

from ..flow import ResolvedFlow
from .baseline import Baseline
from .dense import DenseHooks
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
) -> Iterator[None]:
    """Inside the block, `model` runs under the flow. Inside another block, the cuts of both are joined."""
    with ExitStack() as block:
        block.enter_context(eagerly())
        if engine == "sparse" and not open_blocks(decoder):
            takes_strips = block.enter_context(strips_in(decoder))
            hooks: DenseHooks = SparseHooks(model, decoder, resolved, takes_strips, baseline)
        else:  # the outer block's rows are all needed
            hooks = DenseHooks(decoder, resolved, continuation)
        block.callback(hooks.remove)
        block.enter_context(opened(decoder, hooks))
        yield
