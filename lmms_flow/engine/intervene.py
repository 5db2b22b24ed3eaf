"""`intervene`: a model runs under a flow inside a `with` block, and is untouched after it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext

from torch import nn

from ..flow import Flow, FlowError, Layout
from ..flow.errors import nearest
from .baseline import Baseline
from .decoder import check_attention, decoder_layers, find_decoder
from .dense import DenseHooks
from .sparse import SparseHooks
from .strips import strips_in

ENGINES = ("dense", "sparse")


@contextmanager
def intervene(
    model: nn.Module,
    flow: Flow | str,
    layout: Layout | Sequence[Layout],
    engine: str = "sparse",
    baseline: Baseline | None = None,
) -> Iterator[nn.Module]:
    """Runs `model` (any causal language model or VideoLLM of transformers) under `flow` inside the block.

    `layout` is that of the prompt, or a list for a batch; layouts leave padding out, the attention mask says where
    it is. Both prefill and decoding are covered: generated tokens take the cuts of the last prompt token. The hooks
    always come off, also when the body raises. `baseline` is what full attention left of the same prompt: the sparse
    engine goes on from it where the flow leaves it (see `Baseline`). Raises FlowError where the flow does not fit, and
    UnsupportedModelError where a cut would not be applied.
    """
    if engine not in ENGINES:
        raise FlowError(
            f"there is no engine {engine!r}{nearest(engine, ENGINES)} (engines: {', '.join(ENGINES)})"
        )
    flow = Flow.load(flow) if isinstance(flow, str) else flow
    if not flow.needs_masks:
        yield model
        return
    decoder = find_decoder(model)
    check_attention(model)
    layouts = [layout] if isinstance(layout, Layout) else list(layout)
    if not layouts:
        raise FlowError("intervene needs a layout, or one for each sample of the batch")
    bound = flow.bind(len(decoder_layers(decoder)))
    resolved = [bound.resolve(each) for each in layouts]
    with strips_in(decoder) if engine == "sparse" else nullcontext(False) as takes_strips:
        if engine == "sparse":
            hooks: DenseHooks = SparseHooks(model, decoder, resolved, takes_strips, baseline)
        else:
            hooks = DenseHooks(decoder, resolved)
        try:
            yield model
        finally:
            hooks.remove()
