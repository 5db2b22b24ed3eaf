"""FLOPs of the vision tower and its projector, counted while the model runs them: there are too many for a formula."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import wraps
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from .flops import flop_counter

METHODS = ("get_image_features", "get_video_features")
SMALL = 1024  # entries of a tensor of integers that are part of an input's shape, such as a grid of patches

# What a pass costs depends on the shapes of its inputs alone: each is counted once for a model.
_counted: WeakKeyDictionary[nn.Module, dict[Any, int]] = WeakKeyDictionary()


@dataclass
class VisionCount:
    """The FLOPs of the vision passes that a block ran, projector included."""

    flops: int = 0
    _depth: int = field(default=0, repr=False)  # some models' method for videos calls the one for images


@contextmanager
def counting_vision(model: nn.Module) -> Iterator[VisionCount]:
    """Inside the block, the FLOPs of the model's vision passes are added up; their results stay the same, bit by bit.

    A pass is a call of the model's own `get_image_features` or `get_video_features`. The first one of each input shape
    runs under torch's FLOP counter, later ones cost nothing. A text model counts 0. Where arms share one vision pass,
    this block goes around the one that shares it.
    """
    count = VisionCount()
    patched: list[tuple[nn.Module, str, Any]] = []
    try:
        for part in model.modules():
            for name in METHODS:
                method = getattr(part, name, None)
                if callable(method):
                    patched.append((part, name, part.__dict__.get(name)))
                    setattr(part, name, _counting(part, name, method, count))
        yield count
    finally:
        for part, name, before in reversed(patched):
            part.__dict__.pop(name, None)  # the class's own method shows again
            if before is not None:
                setattr(part, name, before)


def _counting(
    part: nn.Module, name: str, method: Callable[..., Any], count: VisionCount
) -> Callable[..., Any]:
    @wraps(method)
    def call(*args: Any, **kwargs: Any) -> Any:
        if count._depth:
            return method(*args, **kwargs)
        known = _counted.setdefault(part, {})
        key = (name, _shape(args), _shape(sorted(kwargs.items())))
        count._depth += 1
        try:
            if key in known:
                features = method(*args, **kwargs)
            else:
                features, flops = _run_counted(method, args, kwargs)
                if flops:  # none at all: somebody else gave the features that it had kept
                    known[key] = flops
        finally:
            count._depth -= 1
        count.flops += known.get(key, 0)
        return features

    return call


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
