"""What a model's layers do: whether attention is the only way from one token to another, and takes our masks.

Looked for by structure, before anything is run. What has no structure to be seen shows in the proof (`proof.py`).
"""

from __future__ import annotations

import re
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from ..errors import UnsupportedModelError
from .decoder import check_attention, decoder_layers, find_decoder
from .layer_call import takes_tokens_apart
from .marks import mark
from .survey import in_words, mixes, other_mechanisms, ranges

# decoder -> the modules of which nothing was found, and what else was looked at
_seen: WeakKeyDictionary[nn.Module, tuple[Any, ...]] = WeakKeyDictionary()
_CHOOSERS = re.compile(r"indexer|top_?k|keep_window|compress")
# use_bidirectional_attention of text that is causal; masks of visual tokens ("vision") are made above the decoder
_VISUAL_TOKENS_ALONE = (None, False, "vision")
_MIXING_MODULES = (nn.modules.conv._ConvNd, nn.RNNBase, nn.MultiheadAttention)


def check_mechanisms(model: nn.Module) -> nn.Module:
    """The model's decoder. Raises UnsupportedModelError, by name, for what moves information past a mask."""
    find_decoder(model)
    check_attention(model)
    return check_layers(model)


def check_layers(model: nn.Module) -> nn.Module:
    """The same, whatever runs its attention: what the layers are shows as soon as a model is loaded."""
    decoder = find_decoder(model)
    config: Any = getattr(decoder, "config", None)
    parts = (
        *((mark(part), type(part), getattr(part, "is_causal", None)) for part in decoder.modules()),
        getattr(config, "is_encoder_decoder", None),
        getattr(config, "use_bidirectional_attention", None),
    )
    if _seen.get(decoder) == parts:
        return decoder
    _check_compiled(decoder)
    if getattr(config, "is_encoder_decoder", False):
        raise UnsupportedModelError(
            f"{type(model).__name__} is an encoder with a decoder: its decoder reads the prompt through "
            "cross-attention, which no flow cuts"
        )
    if getattr(config, "use_bidirectional_attention", None) not in _VISUAL_TOKENS_ALONE:
        raise UnsupportedModelError(
            f"{type(model).__name__} reads later tokens too (use_bidirectional_attention): flows are cut from "
            "causal attention"
        )
    layers = decoder_layers(decoder)
    ways = {number: way for number, layer in enumerate(layers, 1) if (way := _other_way(layer)) is not None}
    if ways:
        number, way = next(iter(ways.items()))
        told = other_mechanisms(layers) or f"{len(ways)} of {len(layers)} layers do ({ranges(list(ways))})"
        raise UnsupportedModelError(
            f"{type(model).__name__}: layer {number} ({type(layers[number - 1]).__name__}) {way}: a cut in the "
            f"attention mask would not cut it; {told}"
        )
    _seen[decoder] = parts
    return decoder


def _other_way(layer: nn.Module) -> str | None:
    """What in a layer moves information past the mask, in words; None where nothing is seen."""
    attention: Any = getattr(layer, "self_attn", None)
    if not isinstance(attention, nn.Module):
        return "has no attention"
    if getattr(attention, "is_causal", True) is False:
        return "has attention that is not causal"
    for name, part in layer.named_modules():
        if part is layer or part is attention:
            continue
        names = name.rsplit(".", 1)[-1].lower(), in_words(type(part).__name__)
        if isinstance(part, _MIXING_MODULES) or mixes(name, type(part).__name__):
            return f"mixes tokens in {name}, a {type(part).__name__}"
        if name.startswith("self_attn.") and any(map(_CHOOSERS.search, names)):
            return f"chooses its keys itself, in {name}, a {type(part).__name__}"
        if takes_tokens_apart(part):
            return f"has another module that is given the mask or the cache, {name}, a {type(part).__name__}"
    if getattr(attention, "is_kv_shared_layer", False):
        return "reads the keys of another layer (is_kv_shared_layer), for which a flow may cut other edges"
    chooser = next((name for name in vars(attention) if _CHOOSERS.search(name.lower())), None)
    if chooser is not None:
        return f"chooses its keys itself ({type(attention).__name__}.{chooser})"
    return None


def _check_compiled(decoder: nn.Module) -> None:
    for part in decoder.modules():
        if isinstance(part, torch.jit.ScriptModule):
            raise UnsupportedModelError(
                f"{type(decoder).__name__} holds a TorchScript module, and no hook sees its calls: load the model "
                "without torch.jit"
            )


def eagerly() -> Any:
    """Inside this context, compiled code runs as it is written.

    What was compiled before the block knows no hooks, and what is compiled inside it would keep them behind its end.
    """
    return torch.compiler.set_stance("force_eager")
