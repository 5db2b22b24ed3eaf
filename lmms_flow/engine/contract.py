"""What may be called inside a block: one prefill of the layout's prompt, then steps that go on from its cache.

Every call of the decoder is checked against this before anything is computed. What does not fit is refused in one line;
`docs/engine.md` lists what is served and what is refused.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from ..errors import FlowError, UnsupportedModelError
from ..flow import Layout, ResolvedFlow
from .decoder import attention_function, attention_implementation, decoder_layers
from .departure import departure
from .hooks import open_blocks
from .layer_call import LayerCall, ModelCall
from .positions import Positions, attended_tokens, spread
from .pruned import PrunedLayer

# Caches that hold the very keys that were computed, in their order.
_GROWING = (DynamicLayer, DynamicSlidingWindowLayer, PrunedLayer)

ONE_PIECE = (
    "inside the block the prompt is read in one call, and later calls go on from the cache of that call"
)


@dataclass
class Filled:
    """What this block has put into a cache."""

    prompt: Tensor  # the prompt's columns, [batch, key]: the token of each, -1 for padding
    length: int  # columns in the cache after the last call
    beside: tuple[Any, ...]  # the blocks that were open
    first_keys: Tensor | None  # layer 1's keys of the last column, which tell the samples of a batch apart


class Contract:
    """The calls of one block. `check` is asked before each, `ran` after each layer, `done` when it is over."""

    def __init__(
        self,
        decoder: nn.Module,
        resolved: Sequence[ResolvedFlow],
        continuation: Sequence[int] = (),
        own_masks: bool = False,
    ) -> None:
        self._decoder = decoder
        self._own_masks = own_masks
        self._resolved = resolved
        self._layouts = [each.layout for each in resolved]
        self._continuation = list(continuation) or [0] * len(resolved)
        self._layers = decoder_layers(decoder)
        self._as_entered = _as_it_is(self._layers)
        self._attention = attention_implementation(decoder), attention_function(decoder)
        self._thread = threading.get_ident()
        self._filled: WeakKeyDictionary[Any, Filled] = WeakKeyDictionary()
        self._prompt: Tensor | None = None  # what the last prefill was given
        self._pending: Filled | None = None
        self._cache: Any = None
        self._ran: list[int] = []
        self._checked: torch.Size | None = None  # [batch, row] of the call that was checked
        self.prompt_width = 0  # columns of the prompt in the cache that is gone on from
        self.is_plain_prefill = False  # of the layouts' prompts alone, each with a real token at its end

    def check(self, call: ModelCall) -> Positions:
        """The rows and columns of a call of the decoder. Raises FlowError where it is not what the layouts describe."""
        self._pending, self._cache, self._ran = None, None, []
        self.is_plain_prefill = False
        self._check_surroundings()
        tokens = call.tokens
        if tokens is None:
            raise FlowError("the decoder was called without input_ids and inputs_embeds")
        _check_cache(call.cache)
        past = int(call.cache.get_seq_length()) if call.cache is not None else 0
        keys = attended_tokens(call, tokens, past, self._own_masks)
        positions = Positions(keys[:, past:], keys, past)
        self._checked = positions.queries.shape
        self._pending = self._step(call, keys, past) if past else self._prefill(tokens, keys)
        return positions

    def ran(self, layer: int, call: LayerCall) -> None:
        """A layer (from 1) was called."""
        self._ran.append(layer)
        if layer == 1:
            self._cache = call.cache
            entered = call.hidden.shape[-3:-1]  # Gemma 3n's states have a dimension in front
            if self._checked is not None and entered != self._checked:
                raise FlowError(
                    f"layer 1 was given {list(entered)} rows, the decoder's call had {list(self._checked)}: another "
                    "hook on the model changes the call; take it off"
                )

    def done(self) -> None:
        """The decoder's call is over. Raises UnsupportedModelError where it did not run each layer once, in order."""
        if self._ran != list(range(1, len(self._layers) + 1)):
            raise UnsupportedModelError(
                f"{type(self._decoder).__name__} ran the layers {self._ran} and not each of its "
                f"{len(self._layers)} once, in order: a flow can't be applied to that (early exit, skipped or "
                "repeated layers)"
            )
        if self._pending is not None and self._cache is not None:
            if self._pending.first_keys is None:
                self._pending.first_keys = self._keys_of_last(self._cache, self._pending.prompt.shape[1])
            self._filled[self._cache] = self._pending

    # What a call may be

    def _prefill(self, tokens: Tensor, keys: Tensor) -> Filled:
        lengths = (keys >= 0).sum(-1).tolist()
        layouts, after = spread(self._layouts, len(lengths)), spread(self._continuation, len(lengths))
        if not self._is_prompt_again(tokens, lengths, layouts):
            for sample, (length, layout, more) in enumerate(zip(lengths, layouts, after, strict=True)):
                if length != layout.num_tokens + more:
                    raise FlowError(_wrong_length(sample, length, layout, more))
            self._prompt = tokens.detach()
            self.is_plain_prefill = not any(after) and bool((keys[:, -1] >= 0).all())
        return Filled(keys, keys.shape[1], self._beside(), None)

    def _is_prompt_again(self, tokens: Tensor, lengths: list[int], layouts: Sequence[Layout]) -> bool:
        """Without a cache, each step reads the prompt again and what was generated behind it."""
        before = self._prompt
        if before is None or len(before) != len(tokens) or before.ndim != tokens.ndim:
            return False
        longer = all(length > layout.num_tokens for length, layout in zip(lengths, layouts, strict=True))
        return longer and torch.equal(before, tokens[:, : before.shape[1]])

    def _step(self, call: ModelCall, keys: Tensor, past: int) -> Filled:
        filled = self._filled.get(call.cache)
        if filled is None:
            return self._after_a_prefix(keys, past)
        width = self.prompt_width = filled.prompt.shape[1]
        if filled.beside != self._beside():
            raise FlowError(
                "the cache was filled under other flows than those of the blocks that are open now"
            )
        if not width <= past <= filled.length:
            raise FlowError(
                f"the cache holds {past} tokens, the last call on it left {filled.length}: inside the block "
                "nobody else may write to it"
            )
        if len(keys) != len(filled.prompt) or not torch.equal(keys[:, :width], filled.prompt):
            raise FlowError(
                f"the cache was filled by a batch of {len(filled.prompt)} with other padding or in another order: "
                "samples keep their places inside the block"
            )
        before = filled.first_keys
        if before is not None and not torch.equal(before, call.cache.layers[0].keys[:, :, width - 1]):
            raise FlowError(
                "the cache's samples changed their places: they keep their order inside the block"
            )
        return Filled(filled.prompt, keys.shape[1], filled.beside, before)

    def _after_a_prefix(self, keys: Tensor, past: int) -> Filled:
        """A cached beginning of the prompt, such as a system prompt, in whose rows the flow cuts nothing."""
        lengths = (keys >= 0).sum(-1).tolist()
        for sample, (length, flow) in enumerate(zip(lengths, spread(self._resolved, len(keys)), strict=True)):
            if length != flow.layout.num_tokens:
                raise FlowError(
                    f"the cache holds {past} tokens that were not read in this block; with them "
                    + _wrong_length(sample, length, flow.layout, 0)
                )
            leaves = departure(flow)
            if leaves is None or int((keys[sample, :past] >= 0).sum()) > leaves.row:
                raise FlowError(
                    f"the cache holds {past} tokens of the prompt from before the block, and the flow "
                    f"{flow.bound.flow.text!r} cuts edges of these tokens: read the whole prompt inside the block"
                )
        return Filled(keys, keys.shape[1], self._beside(), None)

    def _check_surroundings(self) -> None:
        if threading.get_ident() != self._thread:
            raise FlowError("the model was called from another thread than the one that opened the block")
        if (attention_implementation(self._decoder), attention_function(self._decoder)) != self._attention:
            raise FlowError(
                "the model's attention implementation was changed inside the block: change it before"
            )
        if _as_it_is(decoder_layers(self._decoder)) != self._as_entered:
            raise FlowError(
                "the model's layers were changed inside the block, or their forwards: change them before it"
            )
        if self._decoder.training and torch.is_grad_enabled() and _checkpoints(self._layers):
            raise UnsupportedModelError(
                "gradient checkpointing runs the layers a second time, when the flow may be gone: switch it off "
                "with model.gradient_checkpointing_disable()"
            )

    def _beside(self) -> tuple[Any, ...]:
        return open_blocks(self._decoder)

    def _keys_of_last(self, cache: Any, width: int) -> Tensor | None:
        """Where the samples' layouts differ, what tells whether the samples still stand in the same order."""
        if len(set(self._layouts)) == 1 or not cache.layers or type(cache.layers[0]) is not DynamicLayer:
            return None
        keys: Tensor = cache.layers[0].keys
        return keys[:, :, width - 1].clone()


def _check_cache(cache: Any) -> None:
    """Raises FlowError for a cache whose columns are not the tokens that were read, in their order."""
    if cache is None:
        return
    layers = getattr(cache, "layers", None)
    if layers is None or any(type(layer) not in _GROWING for layer in layers):
        kinds = sorted({type(layer).__name__ for layer in layers or ()})
        raise FlowError(
            f"flows need a dynamic key/value cache (DynamicCache), not a {type(cache).__name__}"
            + (f" of {', '.join(kinds)}" if kinds else "")
        )


def _as_it_is(layers: Sequence[nn.Module]) -> list[Any]:
    """What layers and their attention are: the modules, forwards that somebody put in their place, how they attend."""
    found: list[Any] = []
    implementations: dict[int, Any] = {}  # layers mostly share a configuration, which is slow to ask
    for layer in layers:
        attention: Any = layer.self_attn
        found += (layer, attention, vars(layer).get("forward"), vars(attention).get("forward"))
        own = getattr(attention, "config", None)  # a layer may have one of its own
        if id(own) not in implementations:
            implementations[id(own)] = getattr(own, "_attn_implementation", None)
        found += (getattr(attention, "is_causal", None), implementations[id(own)])
    return found


def _checkpoints(layers: Sequence[nn.Module]) -> bool:
    return any(getattr(layer, "gradient_checkpointing", False) for layer in layers)


def _wrong_length(sample: int, length: int, layout: Layout, more: int) -> str:
    return (
        f"sample {sample} of the batch has a prompt of {length} tokens, its layout has {layout.num_tokens}"
        + (f" and {more} are to follow it" if more else "")
        + f" ({ONE_PIECE})"
    )
