"""The sparse engine: rows whose output nobody reads any more are dropped between the decoder's layers. Exact.

The rows that enter each layer are gathered from hidden states, rotary embeddings and masks by hooks on the model's own
layers, so no architecture is written twice. The key/value cache keeps what generated tokens may read.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn
from transformers.cache_utils import DynamicLayer

from ..errors import UnsupportedModelError
from ..flow import ResolvedFlow
from .baseline import Baseline, branch_of
from .course import Course, Setting
from .decoder import decoder_layers, find_decoder, with_base
from .dense import DenseHooks, DenseStep, Step
from .hooks import has_foreign_hooks, open_blocks
from .layer_call import LayerCall, ModelCall, can_keep_one
from .plan import RowPlan
from .positions import Positions
from .prefill import CachedKeys, PrunedDecoding, SparsePrefill

# What asks for more than the last position: a loss, or something of every layer (`output_hidden_states`,
# `output_attentions`, `output_router_logits`).
WHOLE_OUTPUT = ("labels", "output_")


class SparseHooks(DenseHooks):
    """The reference hooks, and rows dropped in a prefill whose caller asks for the last position alone.

    Every other forward (all logits, hidden states, attentions, a loss) runs on the dense engine, and so does each step
    that goes on from its cache.
    """

    def __init__(
        self,
        model: nn.Module,
        decoder: nn.Module,
        resolved: Sequence[ResolvedFlow],
        takes_strips: bool = False,
        baseline: Baseline | None = None,
    ) -> None:
        self._takes_strips = takes_strips
        # The host reads the prompt's length off the first layer's cache, and some models add visual features
        # between the first layers: no row may be missing there.
        setting = Setting.of(model)
        self._whole = setting.undropped
        self._course = Course(resolved, setting, sparse=True)
        self._plans = [RowPlan(each, self._whole) for each in resolved]
        self._branch = branch_of(baseline, resolved, self._whole, decoder)
        self._model, self._decoder = model, decoder
        self._last_only = False  # whether the forward that is running asks for the last position alone
        self.is_open = True  # its pruned caches are of no use to anybody else
        # pruned cache -> layer -> what generated tokens read of its prompt keys
        self._pruned: WeakKeyDictionary[Any, dict[int, CachedKeys]] = WeakKeyDictionary()
        super().__init__(decoder, resolved)
        try:
            for part in with_base(model):
                self._handles.before(part, self._before_model)
                self._handles.after(part, self._after_model, always=True)
            for number, layer in enumerate(decoder_layers(decoder), 1):
                self._handles.after(layer, self._after_layer(number))
        except BaseException:
            self.remove()
            raise

    def remove(self) -> None:
        """Takes the hooks off; what the block pruned can't be gone on from any more."""
        super().remove()
        self.is_open = False

    def _before_model(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = {name for name, value in kwargs.items() if value is not None and value is not False}
        whole = any(name.startswith(WHOLE_OUTPUT) for name in given)
        one = ModelCall.of_model(module, args, kwargs).keeps_one
        self._last_only = can_keep_one(module) and one and not whole and not _outputs_states(module)

    def _after_model(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        self._last_only = False  # also where the forward broke off
        if isinstance(self._step, SparsePrefill):
            self._step.done()

    def _step_of(self, call: ModelCall, positions: Positions) -> Step:
        whole = DenseStep(self._masks, positions, self._additive)
        last_only, self._last_only = self._last_only, False  # holds for one forward of the model
        cache = call.cache
        if cache is not None and not positions.past:
            self._pruned.pop(cache, None)  # it was emptied: what it held is not gone on from
        if cache is not None and cache in self._pruned:
            generated = positions.keys.shape[1] - self._contract.prompt_width
            return PrunedDecoding(whole, self._whole, self._pruned[cache], generated, self._additive)
        if not (last_only and self._may_drop(cache)):
            return whole
        alone = positions.keys.shape == (1, self._resolved[0].layout.num_tokens)  # no beams, no padding
        return SparsePrefill(
            self._masks,
            self._plans,
            whole,
            positions,
            additive=self._additive,
            takes_strips=self._takes_strips and self._course.in_strips,
            branch=self._branch if cache is not None and alone else None,
            block=self,
        )

    def _may_drop(self, cache: Any) -> bool:
        """Whether nobody needs, or looks at, the rows that would be dropped."""
        return (
            self._contract.is_plain_prefill
            and self._course.may_drop
            and _can_hold_rows(cache)
            and len(open_blocks(self._decoder)) == 1
            and not has_foreign_hooks(self._model)
        )

    def _prepare(self, layer: int, call: LayerCall) -> LayerCall:
        if isinstance(self._step, SparsePrefill) and not self._step.can_drop(call):
            if layer > self._whole:
                raise UnsupportedModelError(
                    f"layer {layer} gets a value for each token that the first layers don't get, and the sparse engine "
                    "can't drop rows of it: write engine='dense'"
                )
            self._step = self._step.whole
        return super()._prepare(layer, call)

    def _after_layer(self, number: int) -> Any:
        def after_layer(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            step = self._step
            if not isinstance(step, SparsePrefill) or number <= self._whole:
                return
            cache = LayerCall.read(layer, args, kwargs).cache
            if cache is not None:
                step.leave(number, cache)
                self._pruned.setdefault(cache, step.cached)

        return after_layer


def _outputs_states(model: nn.Module) -> bool:
    """Whether the model's configuration, or its decoder's, asks for hidden states or attentions of every call."""
    configs = [getattr(part, "config", None) for part in (model, find_decoder(model))]
    names = {"output_hidden_states", "output_attentions", "output_router_logits"}
    return any(bool(getattr(config, name, False)) for config in configs for name in names)


def _can_hold_rows(cache: Any) -> bool:
    """Whether the layers of a cache may hold different lengths: none at all, or a plain growing one."""
    if cache is None:
        return True
    return not getattr(cache, "offloading", False) and all(
        type(each) is DynamicLayer for each in cache.layers
    )
