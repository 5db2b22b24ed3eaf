"""The sparse engine: rows whose output nobody reads any more are dropped between the decoder's layers. Exact.

The rows that enter each layer are gathered from hidden states, rotary embeddings and masks by hooks on the model's own
layers, so no architecture is written twice. The key/value cache keeps what generated tokens may read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers.cache_utils import DynamicLayer

from ..errors import UnsupportedModelError
from ..flow import ResolvedFlow
from .baseline import Baseline, Branch, branch_of
from .decoder import decoder_layers, find_decoder, rows_keep_their_places, with_base
from .dense import DenseHooks, adds_to_scores, check_causal, to_additive, visible
from .hooks import has_foreign_hooks, open_blocks
from .layer_call import LayerCall, ModelCall, can_keep_one, over_parts
from .plan import RowPlan
from .pruned import PrunedLayer
from .strips import Strips
from .windows import has_windows

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
        self._whole = max(1, layers_with_visual_features(model))
        self._plans = [RowPlan(each, self._whole) for each in resolved]
        self._branch = branch_of(baseline, resolved, self._whole)
        self._taken: Branch | None = None  # the branch, in a forward that takes it
        self._stays_whole = has_windows(decoder) or rows_keep_their_places(decoder)
        self._model, self._decoder = model, decoder
        self._last_only = self._dropping = self._on_live_cache = False
        self.is_open = True  # its pruned caches are of no use to anybody else
        # cache -> layer -> [batch, key], whether a cached prompt key is one
        self._live_caches: WeakKeyDictionary[Any, dict[int, Tensor]] = WeakKeyDictionary()
        self._cached: dict[int, Tensor] = {}  # of the cache of this forward
        # the model's own mask, whether it is plain causal, and whether it adds something to the scores
        self._own: tuple[Tensor, bool, bool] | None = None
        self._entered: Tensor | None = (
            None  # the columns of the padded prompt whose rows entered, [batch, row]
        )
        self._keys: Tensor | None = None  # those that they may read: the same, or a baseline's before them
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
        super().remove()
        self.is_open = False

    def _needs_hook(self, layer: int) -> bool:
        return True

    def _before_model(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = {name for name, value in kwargs.items() if value is not None and value is not False}
        whole = any(name.startswith(WHOLE_OUTPUT) for name in given)
        one = ModelCall.of_model(module, args, kwargs).keeps_one
        self._last_only = can_keep_one(module) and one and not whole and not _outputs_states(module)

    def _after_model(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        self._last_only = self._dropping = self._on_live_cache = False  # also where the forward broke off
        self._own = None

    def _before_decoder(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        super()._before_decoder(module, args, kwargs)
        assert self._positions is not None
        cache = ModelCall.of_decoder(module, args, kwargs).cache
        self._dropping = (
            self._contract.is_plain_prefill
            and self._last_only
            and not self._stays_whole
            and not self._masks_everywhere()  # nothing dies under `sham`, and the reference shares its masks
            and _can_hold_rows(cache)
            and len(open_blocks(self._decoder)) == 1
            and not has_foreign_hooks(self._model)
        )
        self._on_live_cache = cache is not None and cache in self._live_caches
        self._cached = self._live_caches[cache] if self._on_live_cache else {}
        self._last_only = False  # holds for one forward of the model
        alone = self._positions.keys.shape == (1, self._resolved[0].layout.num_tokens)  # no beams, no padding
        self._taken = self._branch if self._dropping and cache is not None and alone else None
        self._keys = self._entered = self._own = None

    def _prepare(self, layer: int, call: LayerCall) -> LayerCall:
        if self._dropping and not self._can_move(call):
            if layer > self._whole:
                raise UnsupportedModelError(
                    f"layer {layer} is told something of each token that the first layers are not: write "
                    "engine='dense'"
                )
            self._dropping, self._taken = False, None
        if layer == 1 and self._taken and not self._taken.baseline.is_of(self._decoder, call):
            self._taken = None
        if not (self._dropping or self._on_live_cache) or layer <= self._whole:
            if not super()._needs_hook(layer):
                return call
            strips = self._strips(layer, call.hidden, call.mask)
            return super()._prepare(layer, call) if strips is None else call.with_parts(mask=strips)
        if self._on_live_cache:
            return call.with_parts(mask=self._decoding_mask(layer, call.hidden))
        assert self._positions is not None  # rows are told by number on its device, wherever the layer is
        keys = self._rows(layer, self._positions.keys.device)
        rows, hidden = (
            (keys, call.hidden) if self._taken is None else self._take(self._taken, layer, keys, call)
        )
        if self._entered is None or not torch.equal(rows, self._entered):
            hidden = _gather(hidden, self._places(rows))
        self._entered, self._keys = rows, keys
        own = call.mask
        call = _moved(call.with_parts(hidden=hidden), rows.clamp_min(0))
        if self._taken and self._taken.skips(layer):  # its output is not used
            return call.with_parts(mask=None)
        strips = self._strips(layer, hidden, call.mask)
        if strips is None:
            return call.with_parts(mask=self._live_mask(layer, keys, hidden, own))
        return call.with_parts(mask=None if strips.is_causal else strips)

    def _can_move(self, call: LayerCall) -> bool:
        """Whether rows can be taken out of what a layer is told; what its mask adds to the scores can't be."""
        if not call.can_move(self._num_columns):
            return False
        if isinstance(call.mask, Tensor):
            self._is_plain(call.mask)
        return self._own is None or not self._own[2]

    def _take(self, branch: Branch, layer: int, keys: Tensor, call: LayerCall) -> tuple[Tensor, Tensor]:
        """The rows that a layer must compute itself, and the hidden states to take them from.

        What it reads of the baseline goes into the cache.
        """
        if branch.skips(layer):
            return keys[:, -1:], call.hidden
        hidden = call.hidden
        if layer == branch.layer and branch.entering is not None:
            hidden = branch.entering.to(hidden.device)
            self._entered = None
        before = keys[0] < branch.row
        branch.lay_keys(call.cache, layer, keys[0][before])
        return keys[:, ~before], hidden

    def _strips(self, layer: int, hidden: Tensor, own: Any) -> Strips | None:
        """The layer's attention in strips, where its mask is made of rectangles and the batch needs no padding."""
        plain = self._dropping and self._takes_strips and own is None and not self._masks_everywhere()
        if (
            not plain
            or any(each.draws for each in self._resolved)
            or len({each.layout for each in self._resolved}) > 1
        ):
            return None
        strips = self._plans[0].strips(layer)
        skipped = 0 if self._keys is None else self._keys.shape[1] - hidden.shape[1]
        return replace(strips, skipped=skipped) if skipped else strips

    def _rows(self, layer: int, device: torch.device) -> Tensor:
        """The columns of the padded prompt that enter a layer, [batch, row]; -1 on the left of a shorter sample."""
        return self._columns([plan.rows(layer) for plan in self._plans], device)

    def _columns(self, tokens: Sequence[tuple[int, ...]], device: torch.device) -> Tensor:
        assert self._positions is not None
        keys = self._positions.keys.to(device)
        beams = len(keys) // len(self._plans)
        width = max(map(len, tokens))
        columns = torch.full((len(keys), width), -1, device=device)
        for sample, row in enumerate(keys):
            of_prompt = (row >= 0).nonzero()[:, 0]
            wanted = torch.tensor(tokens[sample // beams], device=device)
            columns[sample, width - len(wanted) :] = of_prompt[wanted]
        return columns

    def _places(self, rows: Tensor) -> Tensor:
        """Where the wanted rows stand among those that entered the layer before."""
        if self._entered is None:
            return rows.clamp_min(0)
        return torch.searchsorted(self._entered, rows.clamp_min(0)).clamp_max(self._entered.shape[1] - 1)

    def _live_mask(self, layer: int, columns: Tensor, hidden: Tensor, own: Any) -> Tensor | None:
        """The mask of the rows that entered, which are the last of the columns; None where it is plain causal.

        `own` is the model's own mask of the whole prompt: what it hides stays hidden.
        """
        assert self._positions is not None
        tokens = self._positions.keys.to(columns.device).gather(1, columns.clamp_min(0))
        real = columns >= 0
        beams = len(columns) // len(self._plans)
        keep = torch.stack(
            [
                self._prompt_mask(sample // beams, layer, columns.device)[tokens[sample]][:, tokens[sample]]
                for sample in range(len(columns))
            ]
        )
        if isinstance(own, Tensor) and not self._is_plain(own):
            keep &= _gather_mask(visible(own).to(columns.device), columns.clamp_min(0))
        keep &= real[:, None, :]
        keep |= torch.diag_embed(~real)  # a filler row reads itself, lest it become nan
        causal = torch.ones(keep.shape[1:], dtype=torch.bool, device=columns.device).tril()
        skipped = columns.shape[1] - hidden.shape[1]
        is_plain = bool((keep == causal).all()) and (not skipped or hidden.shape[1] == 1)
        if is_plain and not self._additive and not self._masks_everywhere():
            return None
        keep = keep[:, None, skipped:].to(hidden.device)
        return to_additive(keep, hidden.dtype) if self._additive else keep

    def _is_plain(self, own: Tensor) -> bool:
        """Whether the model's own mask is the causal triangle and nothing else; layers mostly share one."""
        if self._own is None or self._own[0] is not own:
            check_causal(own, self._positions)
            seen = visible(own)
            is_plain = bool((seen == torch.ones_like(seen[0, 0]).tril()).all())
            self._own = own, is_plain, adds_to_scores(own)
        return self._own[1]

    def _read_by_last(self, layer: int, columns: Tensor) -> Tensor:
        """Which columns, of those that the plan says, the last prompt token reads: a random draw cuts single edges."""
        if not any(each.draws for each in self._resolved):
            return columns >= 0  # no mask is made, and held, for this
        assert self._positions is not None
        tokens = self._positions.keys.to(columns.device).gather(1, columns.clamp_min(0))
        beams = len(columns) // len(self._plans)
        last = [
            self._prompt_mask(sample // beams, layer, columns.device)[-1] for sample in range(len(columns))
        ]
        return torch.stack([row[tokens[sample]] for sample, row in enumerate(last)])

    @property
    def _num_columns(self) -> int:
        assert self._positions is not None
        return self._positions.keys.shape[1]

    def _masks_everywhere(self) -> bool:
        return any(each.bound.flow.kind == "sham" for each in self._resolved)

    def _decoding_mask(self, layer: int, hidden: Tensor) -> Tensor | None:
        """The mask over a cache of live keys; None where a new token reads all of them."""
        assert self._positions is not None
        real = self._cached[layer].to(hidden.device)
        num_new = hidden.shape[1]
        if num_new == 1 and bool(real.all()):
            return None
        generated = self._num_columns - self._contract.prompt_width
        later = torch.ones(num_new, generated, dtype=torch.bool, device=hidden.device)
        keep = torch.cat(
            [
                real[:, None, :].expand(-1, num_new, -1),
                later.tril(generated - num_new).expand(len(real), -1, -1),
            ],
            -1,
        )
        return to_additive(keep[:, None], hidden.dtype) if self._additive else keep[:, None]

    def _after_layer(self, number: int) -> Any:
        def prune(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            """Leaves in the cache what generated tokens may read in this layer."""
            cache = LayerCall.read(layer, args, kwargs).cache
            if not self._dropping or cache is None or number <= self._whole:
                return
            assert self._keys is not None
            assert self._positions is not None
            self._live_caches.setdefault(cache, self._cached)
            stored = cache.layers[number - 1]
            wanted = self._columns(
                [plan.rows_read_by_last(number) for plan in self._plans], self._keys.device
            )
            if self._taken and self._taken.skips(number):
                kept = self._taken.baseline.keys(number, wanted[0])
            else:
                places = torch.searchsorted(self._keys, wanted.clamp_min(0)).clamp_max(
                    self._keys.shape[1] - 1
                )
                kept = (_gather_keys(stored.keys, places), _gather_keys(stored.values, places))
            dropped = self._num_columns - kept[0].shape[2]
            cache.layers[number - 1] = PrunedLayer(*kept, self, dropped)
            self._cached[number] = (wanted >= 0) & self._read_by_last(number, wanted)

        return prune


def layers_with_visual_features(model: nn.Module) -> int:
    """How many of the first decoder layers a model adds visual features to (Qwen3-VL's deepstack)."""
    vision = getattr(getattr(model, "config", None), "vision_config", None)
    return len(getattr(vision, "deepstack_visual_indexes", None) or ())


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


def _moved(call: LayerCall, rows: Tensor) -> LayerCall:
    """The same call with the positions of these rows alone."""
    moved: dict[str, Any] = {}
    if call.rotary is not None:
        moved["rotary"] = over_parts(call.rotary, lambda part: _gather(part, rows))
    if call.position_ids is not None:
        moved["position_ids"] = _gather(call.position_ids[..., None], rows)[..., 0]
    return call.with_parts(**moved)


def _gather(states: Tensor, rows: Tensor) -> Tensor:
    """Rows of [..., batch, token, width], by [batch, row]; a batch of one stands for all."""
    batch, count = rows.shape
    states = states.expand(*states.shape[:-3], batch, *states.shape[-2:])
    index = rows.to(states.device)[..., None].expand(*states.shape[:-3], batch, count, states.shape[-1])
    return states.gather(-2, index)


def _gather_mask(own: Tensor, columns: Tensor) -> Tensor:
    """A mask [batch, 1, query, key] between these columns of the prompt, [batch, column, column]."""
    own = own[:, 0].expand(len(columns), -1, -1)
    by_row = own.gather(1, columns[:, :, None].expand(-1, -1, own.shape[-1]))
    return by_row.gather(2, columns[:, None, :].expand(-1, columns.shape[1], -1))


def _gather_keys(states: Tensor, rows: Tensor) -> Tensor:
    """Rows of [batch, head, token, width], by [batch, row]."""
    index = rows.to(states.device)[:, None, :, None].expand(-1, states.shape[1], -1, states.shape[-1])
    return states.gather(2, index)
