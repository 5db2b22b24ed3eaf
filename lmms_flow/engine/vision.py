"""One vision pass for all arms of a question: inside a block, the same pixels are encoded once."""

from __future__ import annotations

import copy
import functools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from .model_state import ModelState

ENCODERS = (
    "get_image_features",
    "get_video_features",
)  # what transformers' VideoLLMs call from their forward


@dataclass
class VisionPasses:
    """What happened inside the block: passes that were run, passes that were saved, seconds of those that were run."""

    run: int = 0
    saved: int = 0
    seconds: float = 0.0
    _depth: int = 0
    # encoder -> its last arguments and result, and the model as it was
    _kept: dict[str, tuple[Any, Any, ModelState]] = field(default_factory=dict)

    def once(self, name: str, encode: Callable[..., Any], owner: nn.Module) -> Callable[..., Any]:
        """`encode`, whose last result is given again for equal arguments."""

        @functools.wraps(encode)  # `generate` reads off its signature what it takes
        def encode_once(*args: Any, **kwargs: Any) -> Any:
            given = (args, {key: value for key, value in kwargs.items() if value is not None})
            kept, state = self._kept.get(name), ModelState.of(owner)
            if kept is not None and _same(kept[0], given) and kept[2].equals(state):
                self.saved += 1
                return copy.copy(kept[1])  # beams are spread in place
            start = _now(args, kwargs)
            self._depth += 1  # some models' get_video_features asks get_image_features: that is one pass
            try:
                result = encode(*args, **kwargs)
            finally:
                self._depth -= 1
            if not self._depth:
                self.seconds += _now(args, kwargs) - start
                self.run += 1
            # A copy of the pixels: a caller may write the next ones into the same tensor.
            self._kept[name] = _copied(given), copy.copy(result), state
            return result

        return encode_once


@contextmanager
def one_vision_pass(model: nn.Module) -> Iterator[VisionPasses]:
    """Inside the block, a model that is given the same pixels again takes the features that it made of them.

    Works for the models whose forward asks `get_image_features` or `get_video_features` of the module that holds the
    vision tower, as transformers' do; any other model encodes as it always does.
    """
    passes = VisionPasses()
    inner = getattr(model, "model", model)
    found = [name for name in ENCODERS if callable(getattr(type(inner), name, None))]
    before = {name: vars(inner).get(name) for name in found}  # another block's, around this one
    for name in found:
        setattr(inner, name, passes.once(name, getattr(inner, name), inner))
    try:
        yield passes
    finally:
        for name in found:
            delattr(inner, name)  # the class's own method is behind it
            if before[name] is not None:
                setattr(inner, name, before[name])


def _copied(value: Any) -> Any:
    """Nested arguments with tensors of their own."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, tuple | list):
        return type(value)(_copied(each) for each in value)
    if isinstance(value, dict):
        return {key: _copied(each) for key, each in value.items()}
    return value


def _same(one: Any, other: Any) -> bool:
    """Equality of nested arguments; tensors by their values."""
    if isinstance(one, Tensor):
        return isinstance(other, Tensor) and (one is other or _equal(one, other))
    if isinstance(one, (tuple, list)):
        return (
            type(one) is type(other)
            and len(one) == len(other)
            and all(_same(a, b) for a, b in zip(one, other, strict=True))
        )
    if isinstance(one, dict):
        return (
            isinstance(other, dict)
            and one.keys() == other.keys()
            and all(_same(one[k], other[k]) for k in one)
        )
    return bool(one is other or (type(one) is type(other) and one == other))


def _equal(one: Tensor, other: Tensor) -> bool:
    return one.dtype == other.dtype and one.device == other.device and torch.equal(one, other)


def _now(args: Any, kwargs: Any) -> float:
    """Seconds on a clock, when the device is done."""
    tensors = (each for each in (*args, *kwargs.values()) if isinstance(each, Tensor))
    if any(tensor.is_cuda for tensor in tensors):
        torch.cuda.synchronize()
    return time.perf_counter()
