"""What a model's layers do: whether attention is the only way from one token to another, and takes our masks.

Looked for by structure, before anything is run. What has no structure to be seen shows in the proof (`proof.py`).
"""

from __future__ import annotations

import re
import sys
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from ..errors import UnsupportedModelError
from .decoder import check_attention, decoder_layers, find_decoder
from .layer_call import takes_tokens_apart

# decoder -> the modules of which nothing was found
_seen: WeakKeyDictionary[nn.Module, tuple[tuple[int, type], ...]] = WeakKeyDictionary()
_MIXERS = re.compile(
    r"mamba|ssm|rwkv|recurren|retention|delta_?net|linear_?attn|linear_?attention|lightning|"
    r"short_?conv|canon|(?:^|_)conv|hyena|lru|cross_?att|encoder_att",
    re.IGNORECASE,
)
_CHOOSERS = re.compile(r"indexer|top_?k|keep_window|compress", re.IGNORECASE)
_MIXING_MODULES = (nn.modules.conv._ConvNd, nn.RNNBase, nn.MultiheadAttention)


def check_mechanisms(model: nn.Module) -> nn.Module:
    """The model's decoder. Raises UnsupportedModelError, by name, for what moves information past a mask."""
    decoder = find_decoder(model)
    check_attention(model)
    parts = tuple((id(part), type(part)) for part in decoder.modules())
    if _seen.get(decoder) == parts:
        return decoder
    _check_compiled(decoder)
    config: Any = getattr(decoder, "config", None)
    if getattr(config, "is_encoder_decoder", False):
        raise UnsupportedModelError(
            f"{type(model).__name__} is an encoder with a decoder: its decoder reads the prompt through "
            "cross-attention, which no flow cuts"
        )
    if getattr(config, "use_bidirectional_attention", None):
        raise UnsupportedModelError(
            f"{type(model).__name__} reads later tokens too (use_bidirectional_attention): flows are cut from "
            "causal attention"
        )
    for number, layer in enumerate(decoder_layers(decoder), 1):
        found = _other_way(layer)
        if found:
            raise UnsupportedModelError(
                f"{type(model).__name__}: layer {number} ({type(layer).__name__}) {found}: a cut in the attention "
                "mask would not cut it"
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
        own_name = name.rsplit(".", 1)[-1]
        inside = name.startswith("self_attn.")
        if isinstance(part, _MIXING_MODULES):
            return f"mixes tokens in {name}, a {type(part).__name__}"
        if _MIXERS.search(own_name) or _MIXERS.search(type(part).__name__):
            return f"mixes tokens in {name}, a {type(part).__name__}"
        if inside and (_CHOOSERS.search(own_name) or _CHOOSERS.search(type(part).__name__)):
            return f"chooses its keys itself, in {name}, a {type(part).__name__}"
        if takes_tokens_apart(part):
            return f"has another module that is given the mask or the cache, {name}, a {type(part).__name__}"
    chooser = next((name for name in vars(attention) if _CHOOSERS.search(name)), None)
    if chooser is not None:
        return f"chooses its keys itself ({type(attention).__name__}.{chooser})"
    return None


def _check_compiled(decoder: nn.Module) -> None:
    for part in decoder.modules():
        if isinstance(part, torch.jit.ScriptModule):
            raise UnsupportedModelError(
                f"{type(decoder).__name__} holds a TorchScript module, which runs past every hook: load the model "
                "itself"
            )


def eagerly() -> Any:
    """Inside this context, compiled code runs as it is written: what was compiled before the block knows no hooks."""
    from contextlib import nullcontext

    return torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext()
