"""The reference engine: the model runs as it is, with the flow's mask given to each layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ..flow import FlowError, ResolvedFlow
from .decoder import attention_implementation, decoder_layers
from .errors import UnsupportedModelError
from .layer_call import LayerCall, ModelCall
from .masks import keep_mask
from .positions import Positions, read_positions


class DenseHooks:
    """Hooks that give each decoder layer its mask; `remove` takes all of them off again.

    A layer in which nothing is cut keeps the model's own mask, except under `sham`, whose point is to take the masked
    path without a cut.
    """

    def __init__(
        self, decoder: nn.Module, resolved: Sequence[ResolvedFlow], continuation: Sequence[int] = ()
    ) -> None:
        self._resolved = resolved
        self._continuation = continuation
        self._positions: Positions | None = None
        self._prompt_masks: dict[tuple[int, int, torch.device], Tensor] = {}
        self._step_masks: dict[tuple[object, torch.device], Tensor] = {}
        self._given: dict[tuple[int, int], tuple[Any, Tensor]] = {}
        self._additive = attention_implementation(decoder) == "eager"
        self._handles: list[RemovableHandle] = []
        try:
            self._handles.append(decoder.register_forward_pre_hook(self._before_decoder, with_kwargs=True))
            for number, layer in enumerate(decoder_layers(decoder), 1):
                if self._needs_hook(number):
                    self._handles.append(
                        layer.register_forward_pre_hook(self._layer_hook(number), with_kwargs=True)
                    )
        except BaseException:
            self.remove()
            raise

    def remove(self) -> None:
        """Takes every hook off and forgets the masks."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._prompt_masks.clear()
        self._forget_step()

    def _forget_step(self) -> None:
        self._step_masks.clear()
        self._given.clear()

    def _needs_hook(self, layer: int) -> bool:
        return any(r.bound.flow.kind == "sham" or not r.is_causal(layer) for r in self._resolved)

    def _before_decoder(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._forget_step()
        call = ModelCall.of_decoder(module, args, kwargs)
        layouts = [r.layout for r in self._resolved]
        self._positions = read_positions(call, layouts, self._continuation)

    def _layer_hook(self, number: int) -> Any:
        def before_layer(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            call = self._prepare(number, LayerCall.read(layer, args, kwargs))
            return call.args, dict(call.kwargs)

        return before_layer

    def _prepare(self, layer: int, call: LayerCall) -> LayerCall:
        """What a layer is called with under the flow."""
        return call.with_parts(mask=self._mask(layer, call.mask, call.hidden))

    def _mask(self, layer: int, own: Any, hidden: Tensor) -> Tensor:
        """What this layer is given; layers with the same cuts and the same mask of their own share it."""
        keep = self._keep(layer, hidden.device)
        key = (id(keep), id(own))
        if key not in self._given:
            mask = combine(own, keep, hidden.dtype if self._additive else None)
            if own is not None:
                self._check_rows(mask, layer)
            self._given[key] = own, mask  # `own` is held, lest another mask is given its id
        return self._given[key][1]

    def _check_rows(self, mask: Tensor, layer: int) -> None:
        """A sliding window may hide the keys that the flow has left to a row; its softmax would then be uniform."""
        assert self._positions is not None
        visible = (mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min / 2).any(-1)
        bare = ~visible.any(1) & (self._positions.queries >= 0).to(mask.device)
        if bare.any():
            sample, row = bare.nonzero()[0].tolist()
            raise FlowError(
                f"flow {self._resolved[0].bound.flow.text!r} leaves token "
                f"{int(self._positions.queries[sample, row])} without any key in layer {layer}: the layer's own "
                "attention window hides the rest"
            )

    def _keep(self, layer: int, device: torch.device) -> Tensor:
        """The kept edges of this forward in one layer, bool [batch, 1, query, key]; layers alike share it."""
        assert self._positions is not None
        drawn = any(r.draws for r in self._resolved)
        alike = (tuple(r.bound.cuts[layer - 1] for r in self._resolved), layer if drawn else 0)
        key = (alike, device)
        if key not in self._step_masks:
            self._step_masks[key] = self._build(layer, device)
        return self._step_masks[key]

    def _build(self, layer: int, device: torch.device) -> Tensor:
        positions = self._positions
        assert positions is not None
        queries, keys = positions.queries.to(device), positions.keys.to(device)
        beams = len(queries) // len(self._resolved)
        rows = [
            expand(self._prompt_mask(sample // beams, layer, device), queries[sample], keys[sample])
            for sample in range(len(queries))
        ]
        keep = torch.stack(rows)
        num_keys = keys.shape[1]
        causal = torch.ones(queries.shape[1], num_keys, dtype=torch.bool, device=device).tril(positions.past)
        return (keep & causal)[:, None]

    def _prompt_mask(self, sample: int, layer: int, device: torch.device) -> Tensor:
        resolved = self._resolved[sample]
        if resolved.draws:  # a control's layers differ all: keeping them would fill the memory
            return keep_mask(resolved, layer).to(device)
        first_alike = resolved.bound.cuts.index(resolved.bound.cuts[layer - 1]) + 1
        key = (sample, first_alike, device)
        if key not in self._prompt_masks:
            self._prompt_masks[key] = keep_mask(resolved, first_alike).to(device)
        return self._prompt_masks[key]


def expand(prompt: Tensor, queries: Tensor, keys: Tensor) -> Tensor:
    """A prompt's kept edges [query, key] for the rows and columns of one forward.

    Generated tokens take the cuts of the last prompt token and see one another; padding is left to the model's mask.
    """
    num_tokens = len(prompt)
    rows = queries.clamp(0, num_tokens - 1)
    columns = keys.clamp(0, num_tokens - 1)
    keep = prompt[rows][:, columns]
    outside = (keys < 0) | (keys >= num_tokens)
    return keep | outside[None, :] | (queries < 0)[:, None]


def combine(own: Any, keep: Tensor, additive: torch.dtype | None) -> Tensor:
    """The model's own mask of this layer (padding, sliding window) with the flow's cuts on top.

    `additive` is the type of the mask to be made where the model has none of its own; None for a boolean one.
    """
    if own is None:
        return keep if additive is None else to_additive(keep, additive)
    if not isinstance(own, Tensor) or own.ndim != 4:
        raise UnsupportedModelError(
            f"the model's own attention mask is a {type(own).__name__}, not [batch, 1, query, key]"
        )
    keep = keep[..., -own.shape[-1] :]  # a sliding window's cache holds the latest keys only
    if keep.shape[-1] != own.shape[-1]:
        raise UnsupportedModelError(
            f"the model's own attention mask has {own.shape[-1]} keys, the sequence {keep.shape[-1]}: flows need a "
            "dynamic key/value cache"
        )
    if own.dtype == torch.bool:
        return own & keep
    return own.masked_fill(~keep, torch.finfo(own.dtype).min)


def to_additive(keep: Tensor, dtype: torch.dtype) -> Tensor:
    """A boolean mask as eager attention adds it to the scores."""
    return torch.zeros(keep.shape, dtype=dtype, device=keep.device).masked_fill_(
        ~keep, torch.finfo(dtype).min
    )
