"""Whether a model is still what it was: its weights, adapters, attention and the hooks of others."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .hooks import hooks_everywhere, is_foreign
from .marks import mark
from .strips import NAME

SAMPLED = 16  # entries of each parameter that are compared: edits behind autograd's back leave no other trace
SMALL = 2**16  # entries up to which a tensor is copied for a comparison of many at once
_ADAPTER = ("disable_adapters", "active_adapters", "merged_adapters", "scaling")


@dataclass(frozen=True, eq=False)
class ModelState:
    """A fingerprint of a module, made in milliseconds."""

    plain: tuple[Any, ...]
    sampled: tuple[Tensor, ...]

    @classmethod
    def of(cls, module: nn.Module) -> ModelState:
        """The module's state now."""
        attention = getattr(getattr(module, "config", None), "_attn_implementation", None)
        plain: list[Any] = ["sdpa" if attention == NAME else attention]  # a block's own name for it
        plain += (_autocast(module), *map(mark, hooks_everywhere()))
        for part in module.modules():
            plain.append((mark(part), part.training, *_overrides(part)))
        sampled: dict[Any, list[Tensor]] = {}
        with torch.no_grad():
            for parameter in (*module.parameters(), *module.buffers()):
                # What is not loaded (accelerate loads it for each call) is another empty one every time.
                it = None if parameter.is_meta else mark(parameter)
                plain.append((it, parameter.data_ptr(), _version(parameter)))
                count = parameter.numel()
                if count and not parameter.is_meta:
                    step = max(1, count // SAMPLED)
                    spread = (-(-count // step),), (step,)  # one view where another way would take three
                    view = (
                        parameter.as_strided(*spread)
                        if parameter.is_contiguous()
                        else parameter.reshape(-1)[::step]
                    )
                    sampled.setdefault((parameter.device, parameter.dtype), []).append(view)
            return cls(tuple(plain), tuple(map(torch.cat, sampled.values())))

    def equals(self, other: ModelState) -> bool:
        """Whether nothing changed between the two."""
        if self.plain != other.plain or len(self.sampled) != len(other.sampled):
            return False
        return are_equal(zip(self.sampled, other.sampled, strict=True))


def are_equal(pairs: Iterable[tuple[Tensor, Tensor]]) -> bool:
    """Whether the tensors of each pair hold the same; each device is asked once, small tensors in one piece."""
    small: dict[Any, tuple[list[Tensor], list[Tensor]]] = {}
    found: dict[torch.device, list[Tensor]] = {}
    for one, other in pairs:
        if one.shape != other.shape or one.dtype != other.dtype:
            return False
        other = other.to(one.device)
        if one.numel() > SMALL:
            found.setdefault(one.device, []).append((one == other).all())
            continue
        ours, theirs = small.setdefault((one.device, one.dtype), ([], []))
        ours.append(one.reshape(-1))
        theirs.append(other.reshape(-1))
    for (device, _), (ours, theirs) in small.items():
        found.setdefault(device, []).append((torch.cat(ours) == torch.cat(theirs)).all())
    return all(bool(torch.stack(each).all()) for each in found.values())


def _overrides(part: nn.Module) -> tuple[Any, ...]:
    """What changes a module's forward without changing a weight."""
    found: list[Any] = []
    if "forward" in part.__dict__:
        found.append(mark(part.__dict__["forward"]))
    for hooks in (part._forward_hooks, part._forward_pre_hooks):
        found += [mark(hook) for hook in hooks.values() if is_foreign(hook)]
    return (*found, *adapters_of(part))


def modules_now(module: nn.Module) -> tuple[Any, ...]:
    """What decides how much a module computes: its parts, forwards that somebody exchanged, and adapters."""
    return tuple(
        (mark(part), mark(vars(part).get("forward")), *adapters_of(part)) for part in module.modules()
    )


def adapters_of(part: nn.Module) -> tuple[str, ...]:
    """Which adapters a module runs with; nothing for one that is no adapter's."""
    if "merged_adapters" not in part.__dict__:  # whole models of transformers have methods of the other names
        return ()
    return tuple(repr(getattr(part, name, None)) for name in _ADAPTER)


def _autocast(module: nn.Module) -> Any:
    """The type to which torch casts products where the module's weights lie; None where it doesn't."""
    device = next((parameter.device.type for parameter in module.parameters()), "cpu")
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None


def _version(tensor: Tensor) -> int:
    return -1 if tensor.is_inference() else tensor._version
