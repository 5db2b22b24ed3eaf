"""The walk of a sweep: baseline and forks go through the decoder's own layers together."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from ..errors import FlowError
from ..flow import ResolvedFlow
from .columns import send
from .contract import Contract
from .decoder import attention_implementation, decoder_layers, rows_keep_their_places
from .dense import HOW, adds_to_scores, check_causal, to_additive
from .edge_attention import Zeroed, weighing_edges
from .hooks import Handles
from .layer_call import LayerCall, ModelCall, over_parts
from .masks import keep_mask
from .positions import Positions, visible

AFTER_SOFTMAX = HOW[1]
RESTORED = "restored"  # the target rows read another run's keys and values in the place of the source's own
PACKED_ROWS = (
    512  # rows of forks that share one call of a layer: enough to fill a matrix product, few for a mask
)


class CantForkError(Exception):
    """The rows of this model can't be run apart from the prompt's."""


@dataclass(frozen=True)
class Fork:
    """One knockout in one window: it differs from the baseline in the rows from `first_row` on."""

    first_row: int
    resolved: ResolvedFlow  # the knockout, cut in all layers
    layers: frozenset[int]  # where it is really cut
    how: str = HOW[0]

    @property
    def num_rows(self) -> int:
        """How many rows it has: those from the first changed one to the prompt's end."""
        return self.resolved.layout.num_tokens - self.first_row

    @property
    def joins(self) -> int | None:
        """The layer from which on it differs; None for a window without layers, which is the baseline itself."""
        return min(self.layers, default=None)


class _BaselineKeys(DynamicCache):  # type: ignore[misc]
    """The baseline's cache; a fork's layer reads the keys below the fork's first row, and its own behind them.

    Behind those it reads `beside`: keys and values [batch, head, key, width] of another run.
    """

    first_row: int | None = None
    beside: tuple[Tensor, Tensor] | None = None

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> Any:
        if self.first_row is None:
            return super().update(key_states, value_states, layer_idx, *args, **kwargs)
        stored = self.layers[layer_idx]
        keys, values = (part[:, :, : self.first_row] for part in (stored.keys, stored.values))
        more_keys, more_values = ((), ()) if self.beside is None else ([each] for each in self.beside)
        return (
            torch.cat([keys, key_states, *more_keys], dim=2),
            torch.cat([values, value_states, *more_values], dim=2),
        )


class ForkWalk:
    """Inside the block, one forward of the model with `cache` carries the forks along.

    Behind the last layer the forks' last rows are appended to the baseline's, so that the model's own head reads them:
    its last `1 + len(forks)` positions are the baseline and the forks, in their order.

    Forks that are `RESTORED` read the keys and values of `other`, the cache of another run of the same prompt.
    """

    def __init__(self, decoder: nn.Module, forks: Sequence[Fork], other: DynamicCache | None = None) -> None:
        self._how, self._other = forks[0].how, other
        self._weighing = ExitStack()
        self.cache = _BaselineKeys()
        self._decoder = decoder
        self._additive = attention_implementation(decoder) == "eager"
        self._forks = forks
        self._states: dict[int, Tensor] = {}  # fork -> [row, width], from the layer where it joins
        self._kept: dict[tuple[int, int, int, torch.device], tuple[Any, Tensor]] = {}
        self._after: Tensor | None = None  # the baseline behind the layer before
        self._handles = Handles()
        self._contract = Contract(decoder, [forks[0].resolved])
        self._num_tokens = forks[0].resolved.layout.num_tokens
        self._positions: Positions | None = None

    def __enter__(self) -> ForkWalk:
        if rows_keep_their_places(self._decoder):
            raise CantForkError
        if self._how == AFTER_SOFTMAX:
            self._weighing.enter_context(weighing_edges(self._decoder))
            self._contract = Contract(self._decoder, [self._forks[0].resolved])  # which watches the attention
        layers = decoder_layers(self._decoder)
        self._handles.before(self._decoder, self._before_decoder)
        self._handles.after(self._decoder, lambda *call: self._contract.done())
        for number, layer in enumerate(layers, 1):
            self._handles.after(layer, self._hook(number, number == len(layers)))
        return self

    def __exit__(self, *exception: object) -> None:
        self._handles.remove()
        self._weighing.close()

    def _before_decoder(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._positions = self._contract.check(ModelCall.of_decoder(module, args, kwargs))

    def _hook(self, number: int, is_last: bool) -> Any:
        def after_layer(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
            call = LayerCall.read(layer, args, kwargs)
            if not call.can_move(self._num_tokens):
                raise CantForkError
            self._contract.ran(number, call)
            self._follow_additions(call.hidden)
            self._join(number, call.hidden)
            for chunk in self._packs():
                self._advance(number, layer, chunk, call)
            plain: Tensor = output[0] if isinstance(output, tuple) else output
            self._after = plain
            if not is_last:
                return output
            ends = [
                self._states[f][-1] if f in self._states else plain[0, -1] for f in range(len(self._forks))
            ]
            whole = torch.cat([plain, torch.stack(ends)[None]], dim=1)
            return (whole, *output[1:]) if isinstance(output, tuple) else whole

        return after_layer

    def _follow_additions(self, entering: Tensor) -> None:
        """Some models add visual features between layers (Qwen3-VL): what the baseline got, the forks get too."""
        if self._after is None or entering is self._after:
            return
        added = entering[0] - self._after[0].to(entering.device)
        if bool(added.any()):
            for number, state in self._states.items():
                self._states[number] = state.to(added.device) + added[self._forks[number].first_row :]

    def _join(self, layer: int, entering: Tensor) -> None:
        for number, fork in enumerate(self._forks):
            if fork.joins == layer:
                self._states[number] = entering[0, fork.first_row :]

    def _packs(self) -> list[list[int]]:
        """The running forks in groups of one first row, each group small enough for one call."""
        packs: list[list[int]] = []
        for number in sorted(self._states, key=lambda f: self._forks[f].first_row):
            fork = self._forks[number]
            first = self._forks[packs[-1][0]] if packs else None
            fits = first is not None and first.first_row == fork.first_row
            if fits and (len(packs[-1]) + 1) * fork.num_rows <= PACKED_ROWS:
                packs[-1].append(number)
            else:
                packs.append([number])
        return packs

    def _advance(self, number: int, layer: nn.Module, pack: list[int], call: LayerCall) -> None:
        """One layer for the rows of several forks, as one sequence behind the baseline's keys."""
        first_row, count = self._forks[pack[0]].first_row, self._forks[pack[0]].num_rows
        device = self.cache.layers[number - 1].keys.device
        rows = torch.cat([self._states[f].to(device) for f in pack])[None]
        moved: dict[str, Any] = {}
        if call.rotary is not None:
            moved["rotary"] = over_parts(
                call.rotary, lambda part: torch.cat([part[..., first_row:, :]] * len(pack), dim=-2)
            )
        if call.position_ids is not None:
            moved["position_ids"] = torch.cat([call.position_ids[..., first_row:]] * len(pack), dim=-1)
        mask = self._mask(number, pack, call.mask, rows)
        packed = call.with_parts(hidden=rows, mask=mask, cache=self.cache, **moved)
        self.cache.first_row = first_row
        self.cache.beside = self._beside(number, pack)
        try:
            out = layer.forward(*packed.args, **packed.kwargs)  # not the module's call: its hooks are ours
        finally:
            self.cache.first_row = self.cache.beside = None
        states = out[0] if isinstance(out, tuple) else out
        self._states.update(zip(pack, states[0].split(count), strict=True))

    def _mask(self, number: int, pack: list[int], own: Any, rows: Tensor) -> Any:
        """What the rows of several forks read in a layer, as the layer is given it."""
        keep = torch.stack([self._keep(number, self._forks[f], own, rows.device) for f in pack])
        kept = self._side_by_side(pack, keep)
        if self._how != HOW[0]:
            first = self._forks[pack[0]]
            every = self._own_keep(own, first.first_row, rows.device, first.num_rows).expand(keep.shape)
            if self._how == AFTER_SOFTMAX:
                return Zeroed(self._side_by_side(pack, every), kept)
            sources = send(self._sources(number, pack), rows.device)
            restored = (every & ~keep).index_select(2, sources)  # [fork, row, source]
            kept = torch.cat([kept, restored.flatten(0, 1)[None, None]], dim=-1)
        return to_additive(kept, rows.dtype) if self._additive else kept

    def _sources(self, layer: int, pack: Sequence[int]) -> Tensor:
        """The tokens whose keys and values of the other run some fork of a pack reads in a layer, on the host."""
        restoring = [self._forks[f].resolved for f in pack if layer in self._forks[f].layers]
        found = torch.zeros(self._num_tokens, dtype=torch.bool)
        for resolved in {id(each): each for each in restoring}.values():
            for keys, _ in next(iter(resolved.rectangles.values())):
                for span in keys:
                    found[span.start : span.stop] = True
        return found.nonzero()[:, 0]

    def _beside(self, layer: int, pack: Sequence[int]) -> tuple[Tensor, Tensor] | None:
        """Keys and values of the other run that a pack reads in a layer; None where it reads none."""
        sources = self._sources(layer, pack) if self._other is not None else torch.empty(0)
        if self._other is None or not len(sources):
            return None
        stored = self._other.layers[layer - 1]
        sources = send(sources, stored.keys.device)
        return stored.keys.index_select(2, sources), stored.values.index_select(2, sources)

    def _side_by_side(self, pack: list[int], keep: Tensor) -> Tensor:
        """[1, 1, row, key]: each fork reads the baseline below its first row, itself above, nothing of the others."""
        first_row, count = self._forks[pack[0]].first_row, self._forks[pack[0]].num_rows
        mask = torch.zeros(
            len(pack), count, first_row + len(pack) * count, dtype=torch.bool, device=keep.device
        )
        mask[:, :, :first_row] = keep[:, :, :first_row]
        among_themselves = mask[:, :, first_row:].view(len(pack), count, len(pack), count)
        among_themselves.diagonal(dim1=0, dim2=2).copy_(keep[:, :, first_row:].permute(1, 2, 0))
        return mask.flatten(0, 1)[None, None]

    def _keep(self, layer: int, fork: Fork, own: Any, device: torch.device) -> Tensor:
        """What the rows of a fork read in a layer, bool [row, key]; windows of one knockout share it."""
        cut = fork.resolved if layer in fork.layers else None
        key = id(own), id(cut), fork.first_row, device
        if key not in self._kept:
            keep = self._own_keep(own, fork.first_row, device, fork.num_rows)
            if cut is not None:
                keep = keep & send(keep_mask(cut, 1)[fork.first_row :], device)
            if own is not None and self._how == HOW[0]:
                self._check_rows(keep, layer, fork)
            self._kept[key] = own, keep  # `own` is held, lest another mask is given its id
        return self._kept[key][1]

    def _check_rows(self, keep: Tensor, layer: int, fork: Fork) -> None:
        """A window may hide the keys that a knockout has left to a row; its softmax would then be uniform."""
        bare = ~keep.any(-1)
        if bare.any():
            token = fork.first_row + int(bare.nonzero()[0])
            raise FlowError(
                f"knockout {fork.resolved.bound.flow.text!r} leaves token {token} without any key in layer {layer}: "
                "the layer's own attention window hides the rest"
            )

    def _own_keep(self, own: Any, first_row: int, device: torch.device, count: int) -> Tensor:
        """What the model itself lets these rows read: everything before them, or a window of it."""
        if own is None:
            num_tokens = first_row + count
            return torch.ones(num_tokens, num_tokens, dtype=torch.bool, device=device).tril()[first_row:]
        check_causal(own, self._positions)
        if adds_to_scores(own):
            raise CantForkError
        return visible(own)[0, 0, first_row:].to(device)
