"""Hooks of ours on a model's modules, told apart from other people's, and the blocks that are open on a model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn
from weakref import WeakKeyDictionary

from torch import nn
from torch.utils.hooks import RemovableHandle

from ..errors import FlowError

# decoder -> the blocks of `intervene` that are open on it, the outermost first
_open: WeakKeyDictionary[nn.Module, list[Any]] = WeakKeyDictionary()


class Hook:
    """A hook that stays on its own model: a copy of the model would be cut for ever."""

    def __init__(self, call: Callable[..., Any]) -> None:
        self._call = call

    def __call__(self, *args: Any) -> Any:
        return self._call(*args)

    def __deepcopy__(self, memo: Any) -> NoReturn:
        raise FlowError(
            "a model can't be copied inside a block of intervene: copy it before or after the block"
        )

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise FlowError(
            "a model can't be pickled inside a block of intervene: save it before or after the block"
        )


class Handles:
    """The hooks that one user of this file has put on; all of them come off together."""

    def __init__(self) -> None:
        self._handles: list[RemovableHandle] = []

    def before(self, module: nn.Module, call: Callable[..., Any]) -> None:
        """`call(module, args, kwargs)` before each forward of the module."""
        self._handles.append(module.register_forward_pre_hook(Hook(call), with_kwargs=True))

    def after(self, module: nn.Module, call: Callable[..., Any], always: bool = False) -> None:
        """`call(module, args, kwargs, output)` after it; where `always`, also when it raised."""
        handle = module.register_forward_hook(Hook(call), with_kwargs=True, always_call=always)
        self._handles.append(handle)

    def remove(self) -> None:
        """Takes them all off."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()


def is_foreign(hook: Any) -> bool:
    """Whether a hook is somebody else's: neither ours, nor one by which transformers or torch do their own work."""
    function = getattr(hook, "func", hook)  # of a partial
    module = getattr(function, "__module__", None) or type(function).__module__
    return not isinstance(hook, Hook) and not module.startswith(("transformers.", "torch."))


def has_foreign_hooks(model: nn.Module) -> bool:
    """Whether somebody else has a hook in this model: it may go by the place of a row."""
    return any(
        is_foreign(hook)
        for part in model.modules()
        for hooks in (part._forward_hooks, part._forward_pre_hooks)
        if hooks
        for hook in hooks.values()
    )


@contextmanager
def without_foreign_hooks(model: nn.Module) -> Iterator[None]:
    """Inside the block, other people's hooks are off: a made-up prompt is none of their business."""
    found = [hooks for part in model.modules() for hooks in (part._forward_hooks, part._forward_pre_hooks)]
    before = [(hooks, list(hooks.items())) for hooks in found if any(map(is_foreign, hooks.values()))]
    for hooks, items in before:
        hooks.clear()
        hooks.update((key, hook) for key, hook in items if not is_foreign(hook))
    try:
        yield
    finally:
        for hooks, items in before:
            hooks.clear()
            hooks.update(items)  # in the order in which they were put on


def open_blocks(decoder: nn.Module) -> tuple[Any, ...]:
    """The blocks that are open on a decoder, the outermost first."""
    return tuple(_open.get(decoder, ()))


@contextmanager
def opened(decoder: nn.Module, block: Any) -> Iterator[None]:
    """Inside, `block` is known to be open on the decoder."""
    blocks = _open.setdefault(decoder, [])
    blocks.append(block)
    try:
        yield
    finally:
        blocks.remove(block)
