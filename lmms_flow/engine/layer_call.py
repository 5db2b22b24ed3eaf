"""What transformers calls the parts of a decoder layer's, a decoder's and a model's call. No other file knows.

The names change between its releases: the cache was `past_key_values` up to 5.23 and is `cache` from 5.24 on. Each part
is read under every spelling that was tried and written back under the one it came with.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from types import MappingProxyType
from typing import Any, TypeVar

import torch
import transformers
from torch import Tensor, nn

from ..errors import UnsupportedModelError
from ..versions import tried_range

CACHE = ("cache", "past_key_values")
_LAYER_PARTS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "hidden": ("hidden_states",),
        "mask": ("attention_mask",),
        "rotary": ("position_embeddings",),
        "position_ids": ("position_ids",),
        "cache": CACHE,
        # Told up to 5.x of some releases; growing caches, the only ones that are served, don't look at it.
        "places": ("cache_position",),
    }
)
_DECODER_PARTS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "input_ids": ("input_ids",),
        "inputs_embeds": ("inputs_embeds",),
        "mask": ("attention_mask",),
        "position_ids": ("position_ids",),
        "cache": CACHE,
    }
)
_MODEL_PARTS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {**_DECODER_PARTS, "kept": ("logits_to_keep",), "use_cache": ("use_cache",)}
)
_PARTS = {"layer": _LAYER_PARTS, "decoder": _DECODER_PARTS, "model": _MODEL_PARTS}
# Without these, a cut can't be put where it belongs. The others are left out by some models.
_NEEDED_IN_LAYER = ("hidden", "mask", "cache")
_NEEDED_IN_DECODER = ("inputs_embeds", "mask", "cache")


_AnyCall = TypeVar("_AnyCall", bound="Call")


@dataclass(frozen=True)
class Call:
    """A call as a hook sees it, with its parts under our names.

    `order` are the names of the positional parameters, in their order.
    """

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    order: tuple[str, ...]
    kind: str  # whose call: a layer's, a decoder's, a model's

    @property
    def parts(self) -> Mapping[str, tuple[str, ...]]:
        """The names that transformers gives each part of such a call."""
        return _PARTS[self.kind]

    def get(self, part: str) -> Any:
        """A part of the call; None where it was not given."""
        name = self._spelling.get(part)
        if name is None:
            return None
        return self.kwargs[name] if name in self.kwargs else self.args[self.order.index(name)]

    def gives(self, part: str) -> bool:
        """Whether the call names this part at all, be it None."""
        return part in self._spelling

    def with_parts(self: _AnyCall, **parts: Any) -> _AnyCall:
        """The same call with other parts, each under the name and in the place that it came with."""
        args, kwargs = list(self.args), dict(self.kwargs)
        for part, value in parts.items():
            name = self._spelling.get(part)
            if name is None:
                kwargs[self.parts[part][0]] = value
            elif name in kwargs:
                kwargs[name] = value
            else:
                args[self.order.index(name)] = value
        return type(self)(tuple(args), kwargs, self.order, self.kind)

    def others(self) -> dict[str, Any]:
        """What else the call gives, by name, None left out."""
        known = {name for names in self.parts.values() for name in names}
        given = dict(zip(self.order, self.args, strict=False)) | dict(self.kwargs)
        return {name: value for name, value in given.items() if name not in known and value is not None}

    @cached_property
    def _spelling(self) -> Mapping[str, str]:
        return _spelling(self.kind, (*self.order[: len(self.args)], *self.kwargs))


@lru_cache(maxsize=1024)  # a handful: calls of one kind give the same names each time
def _spelling(kind: str, given: tuple[str, ...]) -> Mapping[str, str]:
    """The name that transformers gives each part of a call."""
    found = ((part, [name for name in names if name in given]) for part, names in _PARTS[kind].items())
    return MappingProxyType({part: names[0] for part, names in found if names})


@dataclass(frozen=True)
class LayerCall(Call):
    """One call of a decoder layer."""

    @classmethod
    def read(cls, layer: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> LayerCall:
        """The call that a hook on the layer was told of. Raises UnsupportedModelError where a part is missing."""
        call = cls(args, kwargs, _order(layer), "layer")
        if not call.gives("hidden") or not call.gives("mask"):
            missing = "mask" if call.gives("hidden") else "hidden"
            raise UnsupportedModelError(
                f"{type(layer).__name__} was called without {_LAYER_PARTS[missing][0]}: flows can't be applied "
                f"to it ({versions()})"
            )
        return call

    def can_move(self, tokens: int) -> bool:
        """Whether all that the layer is told of single tokens is known, so that some of so many can be taken out.

        Anything else with tensors in it may be told by token: their kinds, states of other layers, embeddings of each.
        """
        rotary: list[Tensor] = []
        try:
            over_parts(self.rotary, rotary.append)
        except UnsupportedModelError:
            return False
        by_token = all(part.ndim > 1 and part.shape[-2] == tokens for part in rotary)
        ids = self.position_ids
        known = ids is None or (ids.ndim > 1 and ids.shape[-1] == tokens)
        return by_token and known and not any(map(_holds_tensors, self.others().values()))

    @property
    def hidden(self) -> Tensor:
        """What enters the layer, [batch, token, width]."""
        states: Tensor = self.get("hidden")
        return states

    @property
    def mask(self) -> Any:
        """The model's own mask of this layer; None where it makes none."""
        return self.get("mask")

    @property
    def rotary(self) -> Any:
        """The rotary embeddings of the tokens; None where the layer makes them itself."""
        return self.get("rotary")

    @property
    def position_ids(self) -> Tensor | None:
        """The tokens' positions, [..., batch, token]."""
        ids: Tensor | None = self.get("position_ids")
        return ids

    @property
    def cache(self) -> Any:
        """The key/value cache; None where none is kept."""
        return self.get("cache")


@dataclass(frozen=True)
class ModelCall(Call):
    """One call of a decoder, or of the whole model."""

    @classmethod
    def of_decoder(cls, decoder: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> ModelCall:
        """A call of the text decoder."""
        return cls(args, kwargs, _order(decoder), "decoder")

    @classmethod
    def of_model(cls, model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> ModelCall:
        """A call of the model with its head."""
        return cls(args, kwargs, _order(model), "model")

    @property
    def tokens(self) -> Tensor | None:
        """Its embeddings [batch, token, width] or else its ids [batch, token]; None where it has neither."""
        embeds, ids = self.get("inputs_embeds"), self.get("input_ids")
        tokens: Tensor | None = ids if embeds is None else embeds
        return tokens

    @property
    def cache(self) -> Any:
        """The key/value cache that was handed over; None where there was none."""
        return self.get("cache")

    @property
    def keeps_one(self) -> bool:
        """Whether the caller reads the logits of the last position and no others."""
        kept = self.get("kept")  # a number of positions, or a tensor of places
        return isinstance(kept, int) and not isinstance(kept, bool) and kept == 1


def over_parts(rotary: Any, change: Callable[[Tensor], Any]) -> Any:
    """Rotary embeddings changed part by part: one tensor (complex numbers) or a tuple of them (cosines and sines)."""
    if rotary is None:
        return None
    if isinstance(rotary, Tensor):
        return change(rotary)
    if isinstance(rotary, tuple | list) and all(isinstance(part, Tensor) for part in rotary):
        return tuple(change(part) for part in rotary)
    raise UnsupportedModelError(
        f"the rotary embeddings are a {type(rotary).__name__}, not tensors ({versions()}): flows can't move them"
    )


def _holds_tensors(value: Any) -> bool:
    if isinstance(value, Tensor):
        return value.numel() > 1
    if isinstance(value, Mapping):
        return any(map(_holds_tensors, value.values()))
    if isinstance(value, list | tuple | set):
        return any(map(_holds_tensors, value))
    # A plain value says nothing of single tokens; of anything else it is not known.
    return not isinstance(value, bool | int | float | str | torch.dtype | torch.device | type(None))


def check_calls(decoder: nn.Module, layers: Sequence[nn.Module]) -> None:
    """Raises UnsupportedModelError where the decoder, or a layer, names a part that is needed as nobody did before."""
    for module, parts, needed in (
        (decoder, _DECODER_PARTS, _NEEDED_IN_DECODER),
        *((layer, _LAYER_PARTS, _NEEDED_IN_LAYER) for layer in layers),
    ):
        names = _names(module)
        for part in needed:
            if not any(name in names for name in parts[part]):
                raise UnsupportedModelError(
                    f"{type(module).__name__} takes no {' or '.join(parts[part])} (it takes {', '.join(names)}): "
                    f"flows can't be applied to it ({versions()})"
                )


def versions() -> str:
    """The installed transformers and the range that was tried, for messages."""
    return (
        f"transformers {transformers.__version__}, tried: {tried_range('transformers') or 'not known here'}"
    )


def can_keep_one(model: nn.Module) -> bool:
    """Whether the model can be asked for the logits of some positions alone."""
    return bool(keeping(model, 1))


def keeping(model: nn.Module, count: int) -> dict[str, int]:
    """The argument that asks for the logits of the last `count` positions; none where the model has no such thing."""
    base = getattr(model, "get_base_model", None)  # an adapter's wrapper hands over what it does not know
    names = _names(base() if callable(base) else model)
    name = next((name for name in _MODEL_PARTS["kept"] if name in names), None)
    return {} if name is None else {name: count}


def keeping_last(model: nn.Module) -> dict[str, Tensor]:
    """The argument that asks for the last position's logits by its place; none where the model has no such thing.

    A place is no number of positions: the sparse engine drops no row for a caller who asks this way.
    """
    return {name: torch.tensor([-1]) for name in keeping(model, 1)}


def going_on_from(module: nn.Module, cache: Any) -> dict[str, Any]:
    """The argument that hands a key/value cache to a decoder or a model, under the name that it takes."""
    name = next((name for name in CACHE if name in _names(module)), CACHE[0])
    return {name: cache}


def cache_in(output: Any) -> Any:
    """The key/value cache in what a decoder or a model gave back; None where it kept none."""
    return next((cache for name in CACHE if (cache := getattr(output, name, None)) is not None), None)


def with_cache(output_class: Any, cache: Any) -> dict[str, Any]:
    """The argument that puts a cache into an output of this class."""
    name = next((name for name in CACHE if name in inspect.signature(output_class).parameters), CACHE[0])
    return {name: cache}


def layers_with_visual_features(model: nn.Module, decoder: nn.Module) -> int:
    """How many of the first layers have visual features added to what they read or give, at places of the whole prompt.

    Qwen3-VL adds them behind its first layers, Granite Vision in front of those that its configuration names. Of a
    decoder that takes such features and does not say where, all of its layers.
    """
    config = getattr(model, "config", None)
    if named := getattr(config, "deepstack_layer_map", None):
        return max(int(layer) for _, layer in named)
    vision = getattr(config, "vision_config", None)
    if (indexes := getattr(vision, "deepstack_visual_indexes", None)) is not None:
        return len(indexes)
    takes = vision is not None and any("deepstack" in name for name in _names(decoder))
    return len(decoder.layers) if takes else 0  # type: ignore[arg-type]


def _order(module: nn.Module) -> tuple[str, ...]:
    return _parameters(module.forward)[0]


def _names(module: nn.Module) -> tuple[str, ...]:
    return _parameters(module.forward)[1]


def _parameters(forward: Any) -> tuple[tuple[str, ...], tuple[str, ...]]:
    return _parameters_of(getattr(forward, "__func__", forward))


@lru_cache(maxsize=1024)
def _parameters_of(forward: Any) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The names of a function's positional parameters, and of all that have a name; `self` left out."""
    found = [p for p in inspect.signature(forward).parameters.values() if p.name != "self"]
    placed = tuple(p.name for p in found if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD))
    named = tuple(p.name for p in found if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD))
    return placed, named


def mask_in(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """The mask that a layer's module is called with; None where it is given none."""
    return Call(args, kwargs, _order(module), "layer").get("mask")


def takes_tokens_apart(module: nn.Module) -> bool:
    """Whether a module's forward is given a mask of tokens or a cache: it reads more than its own token."""
    names = _names(module)
    return any(name in names for name in (*CACHE, "past_key_value", "cache_params", "attention_mask"))


def counts_its_rows(module: nn.Module) -> bool:
    """Whether a module's forward asks the cache how long it is, to number the rows that it is given (Llama 4)."""
    return _asks_length(getattr(module.forward, "__func__", module.forward))


@lru_cache(maxsize=1024)
def _asks_length(forward: Any) -> bool:
    code = getattr(inspect.unwrap(forward), "__code__", None)
    return code is not None and "get_seq_length" in code.co_names


def goes_through_interface(attention: nn.Module) -> bool:
    """Whether an attention asks transformers for the function that it runs, and hands it queries, keys and values."""
    return _asks_interface(getattr(attention.forward, "__func__", attention.forward))


@lru_cache(maxsize=1024)
def _asks_interface(forward: Any) -> bool:
    code = getattr(inspect.unwrap(forward), "__code__", None)
    return code is not None and "ALL_ATTENTION_FUNCTIONS" in code.co_names
