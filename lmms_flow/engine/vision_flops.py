"""FLOPs of a vision tower and its projector, counted while the model runs them: there are too many for a formula."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from .flops import flop_counter
from .model_state import modules_now

SMALL = 1024  # entries of a tensor of integers that are part of an input's shape, such as a grid of patches

# What a pass costs depends on the shapes of its inputs alone: each is counted once for a module as it is.
_counted: WeakKeyDictionary[nn.Module, tuple[Any, dict[Any, int]]] = WeakKeyDictionary()


def with_flops(
    owner: nn.Module, encode: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Any, int]:
    """What an encoder of `owner` makes of these arguments, and the FLOPs of that."""
    known, now = _counted.get(owner), modules_now(owner)
    if known is None or known[0] != now:
        known = _counted[owner] = now, {}
    key = (encode.__name__, _shape(args), _shape(sorted(kwargs.items())))
    if key in known[1]:
        return encode(*args, **kwargs), known[1][key]
    features, flops = _run_counted(encode, args, kwargs)
    if flops:  # none at all: somebody else gave the features that it had kept
        known[1][key] = flops
    return features, flops


def _run_counted(
    method: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Any, int]:
    """The method's result and its FLOPs.

    In inference mode operators reach the counter whole, and it takes some of them apart into others that round
    differently. So that mode is left, with inputs that may be used outside it.
    """
    grad = torch.is_grad_enabled()
    with torch.inference_mode(False), torch.set_grad_enabled(grad):
        args = tuple(map(_outside_inference, args))
        kwargs = {name: _outside_inference(value) for name, value in kwargs.items()}
        with flop_counter() as counter:
            features = method(*args, **kwargs)
    return features, counter.get_total_flops()


def _outside_inference(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) and value.is_inference() else value


def _shape(value: Any) -> Any:
    """What of an argument decides how much is computed: shapes, and the values of small tensors of integers."""
    if isinstance(value, Tensor):
        counts = not value.is_floating_point() and value.numel() <= SMALL
        return tuple(value.shape), tuple(value.flatten().tolist()) if counts else ()
    if isinstance(value, list | tuple):
        return tuple(map(_shape, value))
    return repr(value)
