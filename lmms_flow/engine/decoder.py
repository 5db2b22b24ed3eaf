"""Finds a model's decoder and its layers, and says whether its attention can be given a mask of our own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from ..errors import UnsupportedModelError
from .attention_calls import registered
from .layer_call import check_calls, counts_its_rows
from .survey import other_mechanisms


def find_decoder(model: nn.Module) -> nn.Module:
    """The text decoder that holds the layers. Raises UnsupportedModelError where there is none of the common kind."""
    get_decoder = getattr(model, "get_decoder", None)
    decoder: Any = get_decoder() if callable(get_decoder) else model
    while not hasattr(decoder, "layers") and isinstance(getattr(decoder, "model", None), nn.Module):
        decoder = decoder.model  # some classes give themselves for their decoder (Llama 4)
    if not isinstance(decoder, nn.Module) or not _layers(decoder):
        others = _other_mechanisms(decoder)
        if others:
            raise UnsupportedModelError(f"{type(model).__name__}: {others}: flows can't be applied to it")
        raise UnsupportedModelError(
            f"{type(model).__name__} has no decoder with a list of layers that each hold a self_attn"
            f"{_other_layer(decoder)}: flows can't be applied to it"
        )
    check_calls(decoder, _layers(decoder))
    return decoder


def module_of(model: Any) -> nn.Module:
    """A model of transformers, or that in a loaded model (`lmms_flow.load`); what a compiled wrapper wraps."""
    inner: Any = model if isinstance(model, nn.Module) else getattr(model, "model", None)
    if not isinstance(inner, nn.Module):
        raise UnsupportedModelError(
            f"{type(model).__name__} is no model: give a torch.nn.Module or what load() returned"
        )
    module: nn.Module = getattr(inner, "_orig_mod", inner)
    return module


def _other_layer(decoder: Any) -> str:
    """The first layer that has no attention beside others that have, in words; nothing where there is none."""
    layers = getattr(decoder, "layers", ())
    if not isinstance(layers, Sequence | nn.ModuleList):
        return ""
    for number, layer in enumerate(layers, 1):
        if isinstance(layer, nn.Module) and not isinstance(getattr(layer, "self_attn", None), nn.Module):
            parts = ", ".join(name for name, _ in layer.named_children())
            return f" (layer {number}, a {type(layer).__name__}, holds {parts or 'nothing'})"
    return ""


def _other_mechanisms(decoder: Any) -> str:
    """What layers without attention do in its stead, in words; nothing where that is not seen."""
    layers = getattr(decoder, "layers", ())
    if not isinstance(layers, Sequence | nn.ModuleList):
        return ""
    return other_mechanisms([layer for layer in layers if isinstance(layer, nn.Module)])


def rows_keep_their_places(decoder: nn.Module) -> bool:
    """Whether a layer numbers the rows that it is given itself, so that none may be taken out."""
    return any(counts_its_rows(part) for layer in decoder_layers(decoder) for part in layer.modules())


def attention_function(decoder: nn.Module) -> Any:
    """What transformers runs the decoder's attention with; None for eager, which each model brings along."""
    return registered(attention_implementation(decoder))


def with_base(model: nn.Module) -> tuple[nn.Module, ...]:
    """A model, and what it wraps with adapters (PEFT), which `generate` calls past the wrapper."""
    base = getattr(model, "get_base_model", None)
    inner = base() if callable(base) else model
    return (model,) if inner is model else (model, inner)


def decoder_layers(decoder: nn.Module) -> list[nn.Module]:
    """The decoder's layers, first to last."""
    return _layers(decoder)


def _layers(decoder: nn.Module) -> list[nn.Module]:
    layers: Any = getattr(decoder, "layers", ())
    if not isinstance(layers, Sequence | nn.ModuleList) or not all(
        isinstance(getattr(layer, "self_attn", None), nn.Module) for layer in layers
    ):
        return []
    return list(layers)


def attention_implementation(decoder: nn.Module) -> str:
    """The name under which transformers runs the decoder's attention, such as `sdpa` or `eager`."""
    return str(getattr(getattr(decoder, "config", None), "_attn_implementation", None) or "eager")


def check_attention(model: nn.Module) -> None:
    """Raises UnsupportedModelError, by name, for an attention implementation that drops a mask [query, key]."""
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface

    name = attention_implementation(find_decoder(model))
    if name in ("eager", "sdpa"):
        return
    who = f"{type(model).__name__} with attn_implementation={name!r}"
    if name.startswith(("flash_", "flex_", "paged|")):
        raise UnsupportedModelError(
            f"{who}: this kernel takes no mask of single edges; use 'sdpa' or 'eager'"
        )
    if name in AttentionInterface() and name not in AttentionMaskInterface():
        raise UnsupportedModelError(
            f"{who}: the attention function was registered without its mask function, so it is given no mask; "
            f"register one too: AttentionMaskInterface.register({name!r}, ...), or use 'sdpa' or 'eager'"
        )
