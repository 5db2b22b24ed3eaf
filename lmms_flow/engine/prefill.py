"""A prefill in which rows are dropped: what enters each layer, under which mask, and what stays in the cache."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from .baseline import Branch
from .columns import Columns, send
from .dense import DenseStep, adds_to_scores, check_causal, to_additive
from .layer_call import LayerCall, over_parts
from .masks import PromptMasks
from .plan import RowPlan
from .positions import Positions, visible
from .pruned import Block, PrunedLayer
from .strips import Strips, dense_mask, kernel_of


@dataclass(frozen=True, eq=False)
class CachedKeys:
    """Which of a pruned layer's prompt keys generated tokens read, bool [batch, key], on the host."""

    read: Tensor
    are_all_read: bool


class SparsePrefill:
    """One forward. It holds what lives no longer: the rows that entered the last layer, and copies of their numbers.

    `cached` is what generated tokens may read, by layer, of those whose cache has been pruned.
    """

    def __init__(
        self,
        masks: PromptMasks,
        plans: Sequence[RowPlan],
        whole: DenseStep,
        positions: Positions,
        *,
        additive: bool,
        takes_strips: bool,
        branch: Branch | None,
        block: Block,
    ) -> None:
        self._masks, self._plans, self._additive = masks, plans, additive
        self.whole, self._positions, self._keys = whole, positions, positions.keys
        self.cached: dict[int, CachedKeys] = {}
        self._undropped = plans[0].undropped
        self._branch, self._block = branch, block
        self._draws = any(plan.resolved.draws for plan in plans)
        self._in_strips = takes_strips
        # the model's own mask, whether it is plain causal, and whether it adds something to the scores
        self._own: tuple[Tensor, bool, bool] | None = None
        self._entered: Columns | None = None  # the rows that entered the layer before
        self._read: Columns | None = (
            None  # what those of this layer read: the same, or a baseline's before them
        )
        self._columns: dict[object, Columns] = {}
        self._given: dict[tuple[Any, ...], Tensor | Strips | None] = {}  # to layers that run in strips
        self._read_of: dict[int, CachedKeys] = {}
        self._moved: dict[str, tuple[Any, Columns, Any]] = {}  # part of a call -> as given, the rows, moved

    @property
    def _num_columns(self) -> int:
        return self._keys.shape[1]

    def can_drop(self, call: LayerCall) -> bool:
        """Whether rows can be taken out of what a layer is told; what its mask adds to the scores can't be."""
        if not call.can_move(self._num_columns):
            return False
        if isinstance(call.mask, Tensor):
            self._is_plain(call.mask)
        return self._own is None or not self._own[2]

    def prepare(self, layer: int, call: LayerCall) -> LayerCall:
        """The call with the rows that live in this layer, and their mask."""
        if layer == 1 and self._branch is not None and not self._branch.is_of(call):
            self._branch = None
        if layer <= self._undropped:
            if not self.whole.changes(layer):
                return call
            strips = self._strips(layer, call)
            return self.whole.prepare(layer, call) if strips is None else self._under(strips, call)
        keys = self._entering(layer)
        rows, hidden = (
            (keys, call.hidden) if self._branch is None else self._take(self._branch, layer, keys, call)
        )
        if rows is not self._entered:
            hidden = self._gather(hidden, rows)
        self._entered, self._read = rows, keys
        own = call.mask
        call = self._move(call.with_parts(hidden=hidden), rows)
        if self._branch is not None and self._branch.skips(layer):  # its output is not used
            return call.with_parts(mask=None)
        strips = self._strips(layer, call)
        if strips is None:
            return call.with_parts(mask=self._live_mask(layer, keys, hidden, own))
        return self._under(strips, call)

    def leave(self, layer: int, cache: Any) -> None:
        """Leaves in the cache what generated tokens may read in this layer."""
        assert self._read is not None
        stored = cache.layers[layer - 1]
        wanted = self._columns_of(tuple(plan.segments_read_by_last(layer) for plan in self._plans))
        if self._branch is not None and self._branch.skips(layer):
            kept = self._branch.baseline.keys(layer, wanted)
        elif wanted is self._read:
            kept = stored.keys, stored.values
        else:
            read = self._read
            places = self._once((id(read), id(wanted)), lambda: read.places_of(wanted))
            kept = _gather_keys(stored.keys, places), _gather_keys(stored.values, places)
        cache.layers[layer - 1] = PrunedLayer(stored, *kept, self._block)
        self.cached[layer] = self._read_later(layer, wanted)

    def done(self) -> None:
        """The decoder is through: what was held for its layers alone is let go of."""
        self._given.clear()
        self._moved.clear()
        self._own = None

    # Which rows

    def _entering(self, layer: int) -> Columns:
        return self._columns_of(tuple(plan.entering[layer - 1] for plan in self._plans))

    def _columns_of(self, segments: tuple[frozenset[int], ...]) -> Columns:
        """The columns of some segments of each sample; layers alike share one object."""
        return self._once(
            segments,
            lambda: Columns.of_tokens(
                [plan.tokens(each) for plan, each in zip(self._plans, segments, strict=True)], self._keys
            ),
        )

    def _once(self, key: object, make: Callable[[], Columns]) -> Columns:
        """Held for the whole forward, so that an object's id stays its own."""
        if key not in self._columns:
            self._columns[key] = make()
        return self._columns[key]

    def _take(self, branch: Branch, layer: int, keys: Columns, call: LayerCall) -> tuple[Columns, Tensor]:
        """The rows that a layer must compute itself, and the hidden states to take them from.

        What it reads of the baseline goes into the cache.
        """
        if branch.skips(layer):
            return self._once(("last row", id(keys)), lambda: Columns(keys.host[:, -1:])), call.hidden
        hidden = call.hidden
        if layer == branch.layer and branch.entering is not None:
            hidden = branch.entering.to(hidden.device)
            self._entered = None
        before = keys.host[0] < branch.row
        branch.lay_keys(
            call.cache, layer, self._once(("before", id(keys)), lambda: Columns(keys.host[:, before]))
        )
        return self._once(("behind", id(keys)), lambda: Columns(keys.host[:, ~before])), hidden

    def _gather(self, hidden: Tensor, rows: Columns) -> Tensor:
        """These rows of the states that came out of the layer before."""
        entered = self._entered
        if entered is None:
            places = rows
        elif torch.equal(entered.host, rows.host):
            return hidden
        else:
            places = self._once((id(entered), id(rows)), lambda: entered.places_of(rows))
        if places.is_all_of(hidden.shape[-2]):
            return hidden
        return _gather(hidden, places)

    def _move(self, call: LayerCall, rows: Columns) -> LayerCall:
        """The same call with the positions of these rows alone; layers mostly share what they are told of them."""
        if rows.is_all_of(self._num_columns):
            return call
        moved: dict[str, Any] = {}
        if call.rotary is not None:
            moved["rotary"] = self._moved_once(
                "rotary", call.rotary, rows, lambda: over_parts(call.rotary, lambda part: _gather(part, rows))
            )
        if (ids := call.position_ids) is not None:
            moved["position_ids"] = self._moved_once(
                "position_ids", ids, rows, lambda: _gather(ids[..., None], rows)[..., 0]
            )
        return call.with_parts(**moved)

    def _moved_once(self, part: str, given: Any, rows: Columns, move: Callable[[], Any]) -> Any:
        before = self._moved.get(part)
        if before is None or before[0] is not given or before[1] is not rows:
            self._moved[part] = before = given, rows, move()
        return before[2]

    # Under which mask

    def _strips(self, layer: int, call: LayerCall) -> Strips | None:
        """The layer's attention in strips, where its mask is made of rectangles and the batch needs no padding."""
        if not self._in_strips or call.mask is not None:
            return None
        strips = self._plans[0].strips(layer)
        skipped = 0 if self._read is None else len(self._read) - call.hidden.shape[1]
        return replace(strips, skipped=skipped) if skipped else strips

    def _under(self, strips: Strips, call: LayerCall) -> LayerCall:
        """The call under these strips, or under their mask where one masked kernel is faster than many."""
        hidden = call.hidden
        key = (
            id(strips.strips),
            strips.skipped,
            hidden.device,
            hidden.dtype,
        )  # the plan holds what is told by id
        if key not in self._given:
            kernel = kernel_of(strips, hidden.device)
            mask = dense_mask(strips, hidden.device, hidden.dtype) if kernel == "masked" else strips
            self._given[key] = None if kernel == "causal" else mask
        return call.with_parts(mask=self._given[key])

    def _live_mask(self, layer: int, columns: Columns, hidden: Tensor, own: Any) -> Tensor | None:
        """The mask of the rows that entered, which are the last of the columns; None where it is plain causal.

        `own` is the model's own mask of the whole prompt: what it hides stays hidden.
        """
        device = hidden.device
        index, real = columns.index(device), send(columns.real, device)
        tokens = send(self._keys, device).gather(1, index)
        beams = len(tokens) // len(self._plans)
        keep = torch.stack(
            [
                self._masks.of(sample // beams, layer, device)[tokens[sample]][:, tokens[sample]]
                for sample in range(len(tokens))
            ]
        )
        if isinstance(own, Tensor) and not self._is_plain(own):
            keep &= _gather_mask(visible(own).to(device), index)
        keep &= real[:, None, :]
        keep |= torch.diag_embed(~real)  # a filler row reads itself, lest it become nan
        causal = torch.ones(keep.shape[1:], dtype=torch.bool, device=device).tril()
        skipped = len(columns) - hidden.shape[1]
        is_plain = bool((keep == causal).all()) and (not skipped or hidden.shape[1] == 1)
        if is_plain and not self._additive:
            return None
        keep = keep[:, None, skipped:]
        return to_additive(keep, hidden.dtype) if self._additive else keep

    def _is_plain(self, own: Tensor) -> bool:
        """Whether the model's own mask is the causal triangle and nothing else; layers mostly share one."""
        if self._own is None or self._own[0] is not own:
            check_causal(own, self._positions)
            seen = visible(own)
            is_plain = bool((seen == torch.ones_like(seen[0, 0]).tril()).all())
            self._own = own, is_plain, adds_to_scores(own)
        return self._own[1]

    def _read_later(self, layer: int, columns: Columns) -> CachedKeys:
        """Which columns, of those that the plan says, generated tokens read: a random draw cuts single edges."""
        if not self._draws:
            if id(columns) not in self._read_of:
                self._read_of[id(columns)] = CachedKeys(columns.real, bool(columns.real.all()))
            return self._read_of[id(columns)]
        tokens = self._keys.gather(1, columns.host.clamp_min(0))
        beams = len(tokens) // len(self._plans)
        device = columns.host.device
        last = [self._masks.last_row(s // beams, layer, device)[0] for s in range(len(tokens))]
        read = columns.real & torch.stack([row[tokens[sample]] for sample, row in enumerate(last)])
        return CachedKeys(read, bool(read.all()))


class PrunedDecoding:
    """One step of decoding on a pruned cache: what is there may be read, padding and drawn cuts aside."""

    def __init__(
        self, whole: DenseStep, undropped: int, cached: dict[int, CachedKeys], generated: int, additive: bool
    ) -> None:
        self._whole, self._undropped, self._cached = whole, undropped, cached
        self._generated, self._additive = (
            generated,
            additive,
        )  # generated: tokens behind the prompt, with these

    def prepare(self, layer: int, call: LayerCall) -> LayerCall:
        """The call with the mask of a cache that holds live keys alone."""
        if layer <= self._undropped:
            return self._whole.prepare(layer, call)
        mask = self._mask(self._cached[layer], call.hidden)
        return call if mask is None and call.mask is None else call.with_parts(mask=mask)

    def leave(self, layer: int, cache: Any) -> None:
        """What is generated stays in the cache."""

    def done(self) -> None:
        """Nothing is held."""

    def _mask(self, cached: CachedKeys, hidden: Tensor) -> Tensor | None:
        """None where a new token reads all that is there."""
        num_new = hidden.shape[-2]
        if num_new == 1 and cached.are_all_read:
            return None
        read = send(cached.read, hidden.device)
        later = torch.ones(num_new, self._generated, dtype=torch.bool, device=hidden.device)
        keep = torch.cat(
            [
                read[:, None, :].expand(-1, num_new, -1),
                later.tril(self._generated - num_new).expand(len(read), -1, -1),
            ],
            -1,
        )
        return to_additive(keep[:, None], hidden.dtype) if self._additive else keep[:, None]


def _gather(states: Tensor, rows: Columns) -> Tensor:
    """Rows of [..., batch, token, width]; a batch of one stands for all."""
    index = rows.index(states.device)
    batch, count = index.shape
    if batch == 1:
        return states.index_select(-2, index[0])
    states = states.expand(*states.shape[:-3], batch, *states.shape[-2:])
    return states.gather(-2, index[..., None].expand(*states.shape[:-3], batch, count, states.shape[-1]))


def _gather_mask(own: Tensor, columns: Tensor) -> Tensor:
    """A mask [batch, 1, query, key] between these columns of the prompt, [batch, column, column]."""
    own = own[:, 0].expand(len(columns), -1, -1)
    by_row = own.gather(1, columns[:, :, None].expand(-1, -1, own.shape[-1]))
    return by_row.gather(2, columns[:, None, :].expand(-1, columns.shape[1], -1))


def _gather_keys(states: Tensor, rows: Columns) -> Tensor:
    """Rows of [batch, head, token, width]."""
    index = rows.index(states.device)
    if len(index) == 1:
        return states.index_select(2, index[0])
    index = index[:, None, :, None]
    return states.gather(2, index.expand(-1, states.shape[1], -1, states.shape[-1]))
