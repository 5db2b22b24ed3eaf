"""Proof that a cut cuts: shown on a made-up prompt before the first flow is run on a model, and remembered.

Structure does not show everything: an attention function may drop its mask, a layer may shift its tokens.
"""

from __future__ import annotations

import sys
from collections import deque
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from ..errors import UnsupportedModelError
from .decoder import attention_function, attention_implementation, find_decoder
from .hooks import open_blocks
from .marks import mark
from .probe import ISOLATE, Probe, difference, quietly
from .windows import has_windows

# Of each decoder the last few kinds of layers that were shown: somebody may exchange a forward before each call.
_proven: WeakKeyDictionary[nn.Module, deque[Any]] = WeakKeyDictionary()
LAST = 8
# A mixture of experts rounds by how many rows an expert is given: what is cut off moves the last bits. Up to so many
# times what another batch moves is rounding.
TIMES = 8.0
NARROW = 4  # tokens of a window that the made-up prompt is longer than


def prove(model: nn.Module) -> None:
    """Raises UnsupportedModelError where a cut does not cut, or a mask that cuts nothing changes the answer."""
    decoder = find_decoder(model)
    if open_blocks(decoder):
        return  # shown when the outermost was opened
    key = layers_now(decoder)
    known = _proven.setdefault(decoder, deque(maxlen=LAST))
    if key in known:
        return
    with quietly(model):
        probe = Probe.of(model)
        (stock,), (sham,) = (
            probe.run(probe.clean, decode=False, whole=True),
            probe.run(probe.clean, "sham", decode=False, whole=True),
        )
        (cut,), (other,) = (
            probe.run(each, ISOLATE, decode=False, whole=True) for each in (probe.clean, probe.other)
        )
        leaked = difference(cut, other)
        allowed = allowed_leak(probe) if leaked else 0.0
        seen = (
            difference(stock, *probe.run(probe.other, decode=False, whole=True))
            if torch.equal(sham, cut)
            else 0.0
        )
        windowed = not has_windows(decoder) or _follows_its_window(probe, stock)
    who = f"{type(model).__name__} ({attention_implementation(decoder)} attention)"
    changed = difference(stock, sham)
    if changed > rounding_of(model):
        raise UnsupportedModelError(
            f"{who} changes its output by {changed:.1e} when it is given a mask that cuts nothing: its layers don't "
            "take the mask of transformers' attention interface"
        )
    if leaked > allowed:
        raise UnsupportedModelError(
            f"{who} moves information past the attention mask: tokens that are cut off from the last one change it "
            f"by {leaked:.1e} (a convolution, a recurrence, a shift of tokens, or attention that ignores its mask)"
        )
    if seen > rounding_of(model):
        raise UnsupportedModelError(f"{who} ignores its mask: a cut changes nothing")
    if not windowed:
        raise UnsupportedModelError(
            f"{who} has a window of {decoder.config.sliding_window} tokens in its cache and none in its mask, so a "  # type: ignore[union-attr]
            "prompt and a decoded token read different keys: set sliding_window=None in its configuration"
        )
    known.append(key)


def _follows_its_window(probe: Probe, stock: torch.Tensor) -> bool:
    """Whether a narrower window of the configuration changes what the model says, as it does where masks know it."""
    config: Any = probe.decoder.config
    before = config.sliding_window
    config.sliding_window = NARROW
    try:
        (narrow,) = probe.run(probe.clean, decode=False, whole=True)
    finally:
        config.sliding_window = before
    return not torch.equal(stock, narrow)


def allowed_leak(probe: Probe) -> float:
    """How far rounding alone may move the last token: measured by running it once more, in a batch of two."""
    both = torch.cat([probe.clean, probe.other])
    (alone,), (in_batch,) = (
        probe.run(each, ISOLATE, decode=False, whole=True) for each in (probe.clean, both)
    )
    moved = difference(alone, in_batch)
    if not moved and not _has_experts(probe.model):
        return 0.0
    kind = _dtype(probe.model)
    a_few_bits = (32 if kind == torch.float32 else 2) * torch.finfo(kind).eps
    return min(max(TIMES * moved, a_few_bits), rounding_of(probe.model))


def _has_experts(model: nn.Module) -> bool:
    """Whether tokens are batched by expert, so that the last bits hang on the others; one batch may happen to agree."""
    return any("expert" in name for name, _ in model.named_modules())


def rounding_of(model: nn.Module) -> float:
    """How far apart two kernels may be that compute the same."""
    return 1e-3 if _dtype(model) in (torch.float32, torch.float64) else 0.1


def _dtype(model: nn.Module) -> torch.dtype:
    return next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)


def layers_now(decoder: nn.Module) -> Any:
    """What decides how the layers treat their masks: attention, modules, and forwards that somebody exchanged."""
    parts = tuple(
        (mark(part), type(part).forward, mark(vars(part).get("forward"))) for part in decoder.modules()
    )
    modules = {sys.modules.get(type(part).__module__) for part in decoder.modules()}
    eager = frozenset(getattr(module, "eager_attention_forward", None) for module in modules)
    return attention_implementation(decoder), attention_function(decoder), eager, parts
