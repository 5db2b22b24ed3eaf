"""The vision passes of a model: counted, timed, and shared by all arms of a question."""

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
from .vision_flops import with_flops

ENCODERS = (
    "get_image_features",
    "get_video_features",
)  # what transformers' VideoLLMs call from their forward


@dataclass
class VisionPasses:
    """What happened inside the block: passes that were run and passes that were saved; of those that were run, seconds.

    `flops` of those that were run, projector included, where the block counts them.
    """

    run: int = 0
    saved: int = 0
    seconds: float = 0.0
    flops: int = 0
    _depth: int = field(
        default=0, repr=False
    )  # some models' get_video_features asks get_image_features: one pass
    # (module, encoder) -> its last arguments and result, and the module as it was
    _kept: dict[tuple[int, str], tuple[Any, Any, ModelState]] = field(default_factory=dict, repr=False)

    def around(self, owner: nn.Module, name: str, share: bool, count: bool) -> Callable[..., Any]:
        """The owner's encoder as the block runs it.

        Args:
            owner: the module with the encoder.
            name: the encoder's, such as `get_video_features`.
            share: whether a call with the arguments of the last one is answered with its result.
            count: whether FLOPs are counted.
        """
        encode = getattr(owner, name)

        @functools.wraps(encode)  # `generate` reads off its signature what it takes
        def call(*args: Any, **kwargs: Any) -> Any:
            if self._depth:
                return encode(*args, **kwargs)
            if not share:
                return self._run(owner, encode, args, kwargs, count)
            given = (args, {key: value for key, value in kwargs.items() if value is not None})
            kept, state = self._kept.get((id(owner), name)), ModelState.of(owner)
            if kept is not None and _same(kept[0], given) and kept[2].equals(state):
                self.saved += 1
                return copy.copy(kept[1])  # beams are spread in place
            result = self._run(owner, encode, args, kwargs, count)
            # A copy of the pixels: a caller may write the next ones into the same tensor.
            self._kept[id(owner), name] = _copied(given), copy.copy(result), state
            return result

        return call

    def _run(self, owner: nn.Module, encode: Callable[..., Any], args: Any, kwargs: Any, count: bool) -> Any:
        start = _now(args, kwargs)
        self._depth += 1
        try:
            result, flops = with_flops(owner, encode, args, kwargs) if count else (encode(*args, **kwargs), 0)
        finally:
            self._depth -= 1
        self.seconds += _now(args, kwargs) - start
        self.run += 1
        self.flops += flops
        return result


@contextmanager
def one_vision_pass(model: nn.Module, count: bool = False) -> Iterator[VisionPasses]:
    """Inside the block, a model that is given the same pixels again takes the features that it made of them.

    Works for the models that ask `get_image_features` or `get_video_features` of a module of theirs, as transformers'
    do; any other model encodes as it always does. With `count` the FLOPs are counted too (see `counting_vision`).
    """
    with _watched(model, share=True, count=count) as passes:
        yield passes


@contextmanager
def counting_vision(model: nn.Module) -> Iterator[VisionPasses]:
    """Inside the block, the FLOPs of the model's vision passes are added up; their results stay the same, bit by bit.

    The first pass of each input shape runs under torch's FLOP counter, later ones cost nothing. A text model counts 0.
    """
    with _watched(model, share=False, count=True) as passes:
        yield passes


@contextmanager
def _watched(model: nn.Module, share: bool, count: bool) -> Iterator[VisionPasses]:
    passes = VisionPasses()
    found = [
        (part, name) for part in model.modules() for name in ENCODERS if callable(getattr(part, name, None))
    ]
    before = [vars(part).get(name) for part, name in found]  # another block's, around this one
    try:
        for part, name in found:
            setattr(part, name, passes.around(part, name, share, count))
        yield passes
    finally:
        for (part, name), own in reversed(list(zip(found, before, strict=True))):
            vars(part).pop(name, None)  # the class's own method is behind it
            if own is not None:
                setattr(part, name, own)


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
