"""The reference engine: the model runs as it is, with the flow's mask given to each layer."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers.cache_utils import DynamicSlidingWindowLayer

from ..errors import FlowError, UnsupportedModelError, nearest
from ..flow import ResolvedFlow
from .columns import send
from .contract import Contract
from .course import Course, Setting
from .decoder import attention_implementation, decoder_layers
from .edge_attention import Zeroed
from .hooks import Handles, MaskWatch
from .layer_call import LayerCall, ModelCall
from .masks import PromptMasks
from .positions import Positions, visible

# Where a cut edge loses its weight: in the scores, so that the softmax shares it out, or behind the softmax.
HOW = ("before_softmax", "after_softmax")


def check_how(how: str) -> None:
    """Raises FlowError where there is no such way to cut."""
    if how not in HOW:
        raise FlowError(f"there is no how={how!r}{nearest(how, HOW)} (how: {', '.join(HOW)})")


class Step(Protocol):
    """How one forward of the decoder runs: what each layer is called with, and what is done behind it."""

    def prepare(self, layer: int, call: LayerCall) -> LayerCall:
        """What a layer (from 1) is called with under the flow; the call itself where nothing changes."""

    def leave(self, layer: int, cache: Any) -> None:
        """A layer has run; `cache` is the whole key/value cache, None where none is kept."""


class DenseStep:
    """One forward under whole masks: the reference.

    A layer in which nothing is cut keeps the model's own mask, except under `sham`, whose point is to take the masked
    path without a cut.
    """

    def __init__(
        self, masks: PromptMasks, positions: Positions, additive: bool, may_read_later: bool = False
    ) -> None:
        self._masks, self._resolved = masks, masks.resolved
        self._may_read_later = may_read_later  # see both_ways.py
        self._later: dict[int, tuple[Any, bool]] = {}
        self._positions, self._additive = positions, additive
        self._course = Course(self._resolved, Setting(), sparse=False)
        longest = max(each.layout.num_tokens for each in self._resolved)
        self._decoding = bool((positions.queries.amin(-1) >= longest).all())
        self.kept: dict[tuple[object, torch.device, bool], Tensor] = {}
        self.given: dict[tuple[int, int, int | None], tuple[Any, Any]] = {}

    def prepare(self, layer: int, call: LayerCall) -> LayerCall:
        """The call with the flow's mask, where the flow says anything of this layer."""
        if not self.changes(layer):
            return call
        return call.with_parts(mask=self._mask(layer, call))

    def leave(self, layer: int, cache: Any) -> None:
        """Nothing is done behind a layer."""

    def changes(self, layer: int) -> bool:
        """Whether a layer is given a mask of the flow's at all."""
        return self._course.is_masked(layer)

    def _mask(self, layer: int, call: LayerCall) -> Any:
        """What this layer is given; layers with the same cuts and the same mask of their own share it."""
        own, hidden = call.mask, call.hidden
        keep = self._keep(layer, hidden.device, own is not None and self._reads_later(own))
        held = _keys_of_a_window(call.cache, layer) if own is None else None
        key = (id(keep), id(own), held)
        if key not in self.given:
            if held is not None:
                keep = keep[..., -(held + hidden.shape[1]) :]
            mask = self._put(own, keep, hidden.dtype, layer)
            self.given[key] = own, mask  # `own` is held, lest another mask is given its id
        return self.given[key][1]

    def _reads_later(self, own: Any) -> bool:
        """Whether tokens read later ones under the model's own mask, which tokens of the video alone may."""
        if id(own) not in self._later:
            video = None
            if self._may_read_later:
                video = [each.layout.groups["video"] for each in self._resolved]
            self._later[id(own)] = own, check_causal(own, self._positions, video)
        return self._later[id(own)][1]

    def _put(self, own: Any, keep: Tensor, dtype: torch.dtype, layer: int) -> Any:
        """The cuts on top of the model's own mask."""
        mask = combine(own, keep, dtype if self._additive else None)
        if own is not None:
            self._check_rows(mask, layer)
        return mask

    def _check_rows(self, mask: Tensor, layer: int) -> None:
        """A sliding window may hide the keys that the flow has left to a row; its softmax would then be uniform."""
        bare = ~visible(mask).any(-1).any(1) & send(self._positions.queries >= 0, mask.device)
        if bare.any():
            sample, row = bare.nonzero()[0].tolist()
            raise FlowError(
                f"flow {self._resolved[0].bound.flow.text!r} leaves token "
                f"{int(self._positions.queries[sample, row])} without any key in layer {layer}: the layer's own "
                "attention window hides the rest"
            )

    def _keep(self, layer: int, device: torch.device, both_ways: bool) -> Tensor:
        """The kept edges of this forward in one layer, bool [batch, 1, query, key]; layers alike share it."""
        drawn = any(r.draws for r in self._resolved)
        alike = (tuple(r.bound.cuts[layer - 1] for r in self._resolved), layer if drawn else 0)
        key = (alike, device, both_ways)
        if key not in self.kept:
            self.kept[key] = self._build(layer, device, both_ways)
        return self.kept[key]

    def _build(self, layer: int, device: torch.device, both_ways: bool) -> Tensor:
        positions = self._positions
        queries, keys = send(positions.queries, device), send(positions.keys, device)
        beams = len(queries) // len(self._resolved)
        of_prompt = partial(self._of_prompt, both_ways=both_ways)
        keep = torch.stack(
            [
                expand(of_prompt(sample // beams, layer, device), queries[sample], keys[sample])
                for sample in range(len(queries))
            ]
        )
        if both_ways:
            return keep[:, None]
        num_keys = keys.shape[1]
        causal = torch.ones(queries.shape[1], num_keys, dtype=torch.bool, device=device).tril(positions.past)
        return (keep & causal)[:, None]

    def _of_prompt(self, sample: int, layer: int, device: torch.device, both_ways: bool) -> Tensor:
        """What a forward's rows read of the prompt: generated tokens have one row, alone or behind the prompt's."""
        generated = self._masks.last_row(sample, layer, device)
        if self._decoding:
            return generated
        return torch.cat([self._masks.of(sample, layer, device, both_ways), generated])


class ZeroedStep(DenseStep):
    """The same with the cut edges' weights taken away behind the softmax: what is kept does not grow."""

    def _put(self, own: Any, keep: Tensor, dtype: torch.dtype, layer: int) -> Any:
        combine(own, keep, None)  # refuses a mask that is none
        return Zeroed(own, keep if own is None else keep[..., -own.shape[-1] :])


class DenseHooks:
    """Hooks that give each decoder layer its mask; `remove` takes all of them off again.

    Each forward of the decoder is a step of its own, which holds what belongs to it alone.
    """

    def __init__(
        self,
        decoder: nn.Module,
        resolved: Sequence[ResolvedFlow],
        continuation: Sequence[int] = (),
        how: str = HOW[0],
        own_masks: bool = False,
    ) -> None:
        self.how = how
        self.flows = tuple(dict.fromkeys(one.bound.flow.text for one in resolved))  # for messages
        self._resolved = resolved
        self._own_masks = (
            own_masks  # whether tokens read both ways under masks that the model makes (both_ways.py)
        )
        self._contract = Contract(decoder, resolved, continuation, own_masks)
        self._masks = PromptMasks(resolved)
        self._step: Step | None = None
        self._additive = attention_implementation(decoder) == "eager"
        self._handles, self._watch = Handles(), MaskWatch()
        self._attentions: list[Any] = [layer.self_attn for layer in decoder_layers(decoder)]
        try:
            self._handles.before(decoder, self._before_decoder)
            self._handles.after(decoder, self._after_decoder)
            for number, layer in enumerate(decoder_layers(decoder), 1):
                self._handles.before(layer, self._layer_hook(number))
        except BaseException:
            self.remove()
            raise

    def remove(self) -> None:
        """Takes every hook off and forgets the masks."""
        self._handles.remove()
        self._watch.remove()
        self._masks.clear()
        self._step = None

    def _before_decoder(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._step = None
        self._handles.stay_last()
        self._watch.look(self._attentions)
        call = ModelCall.of_decoder(module, args, kwargs)
        self._step = self._step_of(call, self._contract.check(call))

    def _step_of(self, call: ModelCall, positions: Positions) -> Step:
        """How a call of the decoder runs, whose rows and columns these are."""
        step = DenseStep if self.how == HOW[0] else ZeroedStep
        return step(self._masks, positions, self._additive, self._own_masks)

    def _after_decoder(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> None:
        self._contract.done()
        self._masks.forget_drawn()

    def _layer_hook(self, number: int) -> Any:
        def before_layer(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            call = LayerCall.read(layer, args, kwargs)
            self._contract.ran(number, call)
            prepared = self._prepare(number, call)
            return None if prepared is call else (prepared.args, dict(prepared.kwargs))

        return before_layer

    def _prepare(self, layer: int, call: LayerCall) -> LayerCall:
        """What a layer is called with under the flow."""
        assert self._step is not None
        return self._step.prepare(layer, call)


def _keys_of_a_window(cache: Any, layer: int) -> int | None:
    """How many keys a sliding window's cache holds, which are the latest ones; None for a cache of all keys."""
    layers = getattr(cache, "layers", ())
    if len(layers) < layer or not isinstance(layers[layer - 1], DynamicSlidingWindowLayer):
        return None
    keys = getattr(layers[layer - 1], "keys", None)
    return 0 if keys is None else int(keys.shape[-2]) if keys.ndim > 1 else 0


def check_causal(
    own: Tensor, positions: Positions | None, video: Sequence[Sequence[range]] | None = None
) -> bool:
    """Whether tokens read later ones under a mask of the model's own.

    Args:
        own: the mask, [batch, 1, query, key].
        positions: its rows and columns.
        video: of each prompt, where the video's tokens may; None where no token may.

    Raises:
        UnsupportedModelError: others do: a flow is cut from causal attention.
    """
    assert positions is not None
    rows, columns = own.shape[-2:]
    if rows == 1 or not isinstance(own, Tensor) or own.ndim != 4:
        return False
    later = visible(own)[:, 0].triu(columns - rows + 1)
    if not later.any():
        return False
    queries, keys = positions.queries[:, -rows:], positions.keys[:, -columns:]
    real = send(keys >= 0, own.device)[:, None] & send(queries >= 0, own.device)[:, :, None]
    later = later & real  # what padding reads is of no account
    if video is not None:
        beams = len(queries) // len(video)
        inside = [_within(each, video[at // beams]) for at, each in enumerate(queries)]
        read = [_within(each, video[at // beams]) for at, each in enumerate(keys)]
        allowed = torch.stack(inside)[:, :, None] & torch.stack(read)[:, None]
        found = bool(later.any())
        later = later & ~send(allowed, own.device)
    else:
        found = False
    if later.any():
        raise UnsupportedModelError(
            "the model lets tokens read later ones (image tokens that read one another in both directions, or a "
            "prefix): flows are cut from causal attention"
        )
    return found


def _within(tokens: Tensor, spans: Sequence[range]) -> Tensor:
    """Which tokens lie in one of the ranges, bool."""
    found = torch.zeros_like(tokens, dtype=torch.bool)
    for span in spans:
        found |= (tokens >= span.start) & (tokens < span.stop)
    return found


def expand(prompt: Tensor, queries: Tensor, keys: Tensor) -> Tensor:
    """A prompt's kept edges [query, key] with the row of generated tokens behind them, or that row alone.

    Generated tokens take the cuts of the last prompt token and of `answer`, and see one another; padding is left to the
    model's mask.
    """
    num_tokens = prompt.shape[1]
    rows = queries.clamp(0, num_tokens) if len(prompt) > 1 else torch.zeros_like(queries)
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


def adds_to_scores(own: Tensor) -> bool:
    """Whether a mask of the model's own says more than which edges there are (ALiBi's distances)."""
    return own.is_floating_point() and bool(((own != 0) & visible(own)).any())


def to_additive(keep: Tensor, dtype: torch.dtype) -> Tensor:
    """A boolean mask as eager attention adds it to the scores."""
    return torch.zeros(keep.shape, dtype=dtype, device=keep.device).masked_fill_(
        ~keep, torch.finfo(dtype).min
    )
