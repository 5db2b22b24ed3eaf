"""Models whose visual tokens read one another in both directions: their own masks, above the decoder, say which.

What lies above the diagonal is then the model's own. `cross_frame` cuts both directions between frames; rows can't be
dropped or forked, since a token hangs on later ones, so everything runs on the reference.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from ..flow import ResolvedFlow
from .decoder import decoder_layers, find_decoder
from .hooks import Handles
from .layer_call import ModelCall
from .masks import keep_mask
from .positions import attended_tokens, visible

SIGN = "block_sequence_ids"  # what transformers calls the blocks in which tokens read both ways


class _ReachedError(Exception):
    """Raised at the decoder: what comes behind it is not needed."""


def reads_both_ways(model: nn.Module) -> bool:
    """Whether a model makes masks in which tokens read later ones, for its decoder."""
    inside = set(find_decoder(model).modules())
    return any(_makes_blocks(type(part).forward) for part in model.modules() if part not in inside)


@lru_cache(maxsize=1024)
def _makes_blocks(forward: Any) -> bool:
    code = getattr(inspect.unwrap(forward), "__code__", None)
    if code is None:
        return False
    constants = [one for each in code.co_consts for one in (each if isinstance(each, tuple) else (each,))]
    return SIGN in (*code.co_names, *code.co_varnames, *constants)


def edges_of(
    model: nn.Module, inputs: Mapping[str, Tensor], resolved: Sequence[ResolvedFlow | None]
) -> list[tuple[int, int]]:
    """(kept, total) attention edges of one head, summed over layers, for each prompt of a batch.

    Counted one by one on the model's own masks.

    Args:
        model: in which tokens read both ways.
        inputs: the model's.
        resolved: the flow on each prompt; None for full attention.
    """
    layers, keys = _own_masks(model, inputs)
    counts = []
    for sample, flow in enumerate(resolved):
        real = (keys[sample] >= 0).nonzero().flatten()
        kept = total = 0
        for number, mask in enumerate(layers, 1):
            own = mask[sample if len(mask) > 1 else 0][real][:, real]
            total += int(own.sum())
            kept += int((own if flow is None else own & keep_mask(flow, number, both_ways=True)).sum())
        counts.append((kept, total))
    return counts


def _own_masks(model: nn.Module, inputs: Mapping[str, Tensor]) -> tuple[list[Tensor], Tensor]:
    """Each layer's own mask, bool [batch, query, key], and the token of each column [batch, key]."""
    decoder, handles = find_decoder(model), Handles()
    seen: list[ModelCall] = []

    def look(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen.append(ModelCall.of_decoder(module, args, kwargs))
        raise _ReachedError

    handles.before(decoder, look)
    try:
        with torch.no_grad():
            model(**inputs)
    except _ReachedError:
        pass
    finally:
        handles.remove()
    call, num_layers = seen[0], len(decoder_layers(decoder))
    tokens = call.tokens
    assert tokens is not None
    keys = attended_tokens(call, tokens, 0, own_masks=True)
    mask = call.get("mask")
    kinds: Any = getattr(getattr(decoder, "config", None), "layer_types", None)
    given = [mask[kinds[at]] if isinstance(mask, Mapping) else mask for at in range(num_layers)]
    plain = torch.ones(1, keys.shape[1], keys.shape[1], dtype=torch.bool).tril()
    return [
        visible(one)[:, 0].cpu() if isinstance(one, Tensor) and one.ndim == 4 else plain for one in given
    ], keys
