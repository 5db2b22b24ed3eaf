"""`intervene`: a model runs under a flow inside a `with` block, and is untouched after it."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from ..errors import FlowError, nearest
from ..flow import Layout
from ..flow.given import Given, as_flow
from .applied import applied
from .baseline import Baseline
from .decoder import decoder_layers, module_of
from .dense import HOW, check_how
from .hooks import already_under, open_blocks
from .mechanisms import check_mechanisms
from .proof import prove
from .windows import check_windows, layer_windows

ENGINES = ("dense", "sparse")


@contextmanager
def intervene(
    model: Any,
    flow: Given,
    layout: Layout | Sequence[Layout],
    engine: str = "sparse",
    baseline: Baseline | None = None,
    continuation: int | Sequence[int] = 0,
    how: str = "before_softmax",
) -> Iterator[Any]:
    """Runs a model under `flow` inside the block.

    Both prefill and decoding are covered: generated tokens take the cuts of the last prompt token. The hooks always
    come off, also when the body raises. Blocks inside one another join their cuts.

    A call that is not what the layout describes is refused (see `contract.py`), and so is a model whose layers move
    information past the mask (see `mechanisms.py`); the first block on a model shows on a made-up prompt that a cut
    cuts (see `proof.py`).

    Args:
        model: a decoder or VideoLLM of transformers, or what `lmms_flow.load` gave.
        flow: a flow, its text, a knockout, or a list of these, whose cuts are joined. Groups of the layout's own may
            be named.
        layout: of the prompt, or a list for a batch; layouts leave padding out, the attention mask [batch, token] says
            where it is.
        engine: "sparse" computes what `last` depends on, "dense" every position.
        baseline: what full attention left of the same prompt; the sparse engine goes on from it where the flow leaves
            it (see `Baseline`).
        continuation: for training (teacher forcing): so many tokens of the answer follow each prompt in the same
            forward, one number or one a layout. They take the cuts that generated tokens take. Dense engine only: it
            computes every position, and gradients flow through it.
        how: "before_softmax" takes the cut edges out of the scores, as the paper does, and the others share their
            weight; "after_softmax" takes their weight away behind it, and nobody gets it. Dense engine only.

    Raises:
        FlowError: the flow or the call does not fit.
        UnsupportedModelError: a cut would not be applied.
    """
    if engine not in ENGINES:
        raise FlowError(
            f"there is no engine {engine!r}{nearest(engine, ENGINES)} (engines: {', '.join(ENGINES)})"
        )
    check_how(how)
    if how != HOW[0] and engine != "dense":
        raise FlowError(f"how={how!r} runs on the reference: write engine='dense'")
    flow = as_flow(flow, layout if isinstance(layout, Layout) else next(iter(layout), None))
    if not flow.needs_masks:
        yield model
        return
    module = module_of(model)
    decoder = check_mechanisms(module)
    layouts = [layout] if isinstance(layout, Layout) else list(layout)
    if not layouts:
        raise FlowError("intervene needs a layout, or one for each sample of the batch")
    following = _following(continuation, len(layouts), engine)
    bound = flow.bind(len(decoder_layers(decoder)))
    resolved = [bound.resolve(each) for each in layouts]
    check_windows(resolved, layer_windows(decoder))
    prove(module)
    if open_blocks(decoder):
        warnings.warn(f"{already_under(decoder)}: the cuts of both are joined inside", stacklevel=3)
    with applied(module, decoder, resolved, engine, baseline, following, how):
        yield model


def _following(continuation: int | Sequence[int], num_layouts: int, engine: str) -> list[int]:
    """How many tokens of the answer follow each prompt in the forward that reads it."""
    each = [continuation] * num_layouts if isinstance(continuation, int) else list(continuation)
    if len(each) != num_layouts:
        raise FlowError(f"continuation has {len(each)} numbers for {num_layouts} layouts")
    for number in each:
        if not isinstance(number, int) or isinstance(number, bool) or number < 0:
            raise FlowError(f"continuation must be a number of tokens, 0 or more, not {number!r}")
    if any(each) and engine != "dense":
        raise FlowError(
            f"the {engine} engine computes the last position alone, and continuation asks for the answer's tokens "
            "too: write engine='dense'"
        )
    return each
