"""Hooks of ours on a model's modules, told apart from other people's, and the blocks that are open on a model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn
from weakref import WeakKeyDictionary

from torch import nn
from torch.utils.hooks import RemovableHandle

from ..errors import FlowError
from .layer_call import mask_in

# decoder -> the blocks of `intervene` that are open on it, the outermost first
_open: WeakKeyDictionary[nn.Module, list[Any]] = WeakKeyDictionary()


class Hook:
    """A hook that stays on its own model: a copy of the model would be cut for ever."""

    def __init__(self, call: Callable[..., Any]) -> None:
        self._call = call

    def __call__(self, *args: Any) -> Any:
        """What the hook says, as torch calls it."""
        return self._call(*args)

    def __deepcopy__(self, memo: Any) -> NoReturn:
        """Refused, since torch copies hooks with their module."""
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

    def before(self, module: nn.Module, call: Callable[..., Any], first: bool = False) -> None:
        """`call(module, args, kwargs)` before each forward of the module; where `first`, before all other hooks."""
        handle = module.register_forward_pre_hook(Hook(call), with_kwargs=True, prepend=first)
        self._handles.append(handle)

    def after(self, module: nn.Module, call: Callable[..., Any], always: bool = False) -> None:
        """`call(module, args, kwargs, output)` after it; where `always`, also when it raised."""
        handle = module.register_forward_hook(Hook(call), with_kwargs=True, always_call=always)
        self._handles.append(handle)

    def stay_last(self) -> None:
        """Puts ours behind hooks that somebody else has put on since: what those change, ours are to see."""
        for handle in self._handles:
            hooks = handle.hooks_dict_ref()
            if hooks is None or next(reversed(hooks), handle.id) == handle.id or handle.id not in hooks:
                continue
            later = list(hooks)[list(hooks).index(handle.id) + 1 :]
            if any(is_foreign(hooks[key]) for key in later):
                hooks.move_to_end(handle.id)

    def remove(self) -> None:
        """Takes them all off."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()


class MaskWatch:
    """Sees that the mask which a layer gives its attention gets there, past hooks of somebody else."""

    def __init__(self) -> None:
        self._first, self._last = Handles(), Handles()
        self._watched: set[nn.Module] = set()
        self._given: Any = None

    def look(self, attentions: Sequence[nn.Module]) -> None:
        """Watches those that somebody has put a hook before."""
        for attention in attentions:
            hooks = attention._forward_pre_hooks
            if hooks and attention not in self._watched and any(map(is_foreign, hooks.values())):
                self._watched.add(attention)
                self._first.before(attention, self._enters, first=True)
                self._last.before(attention, self._arrives)
        self._last.stay_last()

    def remove(self) -> None:
        """Watches no more."""
        self._first.remove()
        self._last.remove()
        self._watched.clear()

    def _enters(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._given = mask_in(module, args, kwargs)

    def _arrives(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if mask_in(module, args, kwargs) is not self._given:
            raise FlowError(
                f"another hook changes the attention mask of {type(module).__name__}, which the flow sets inside a "
                "block: put that hook on the whole layer, and the flow's cuts come on top of its mask"
            )


def is_foreign(hook: Any) -> bool:
    """Whether a hook is somebody else's: neither ours, nor one by which transformers or torch do their own work."""
    return not isinstance(hook, Hook) and not _home(hook).startswith(("transformers.", "torch."))


def _home(function: Any) -> str:
    """The module in which a function was written; a wrapper may bear the name of what it wraps."""
    function = getattr(function, "func", function)  # of a partial
    function = getattr(function, "__func__", function)
    own = getattr(function, "__globals__", {}).get("__name__")
    return str(own or getattr(function, "__module__", None) or type(function).__module__)


def has_foreign_hooks(model: nn.Module) -> bool:
    """Whether somebody else has a hook in this model, or a forward of his own: it may go by the place of a row."""
    if hooks_everywhere():
        return True
    waiting = [
        model
    ]  # asked before every prefill: torch's own walk over the modules takes four times as long
    while waiting:
        own = waiting.pop().__dict__
        if own["_forward_hooks"] and any(map(is_foreign, own["_forward_hooks"].values())):
            return True
        if own["_forward_pre_hooks"] and any(map(is_foreign, own["_forward_pre_hooks"].values())):
            return True
        if "forward" in own and _is_foreign_forward(own["forward"]):
            return True
        if own["_modules"]:
            waiting += [each for each in own["_modules"].values() if each is not None]
    return False


# torch's hooks on all modules
_EVERYWHERE: tuple[dict[int, Any], ...] = (
    nn.modules.module._global_forward_hooks,
    nn.modules.module._global_forward_pre_hooks,
)


def hooks_everywhere() -> list[Any]:
    """The hooks that somebody has put on all modules of all models."""
    return [hook for hooks in _EVERYWHERE for hook in hooks.values() if is_foreign(hook)]


def _hooks_of(model: nn.Module) -> Iterator[dict[int, Any]]:
    for part in model.modules():
        yield part._forward_hooks
        yield part._forward_pre_hooks


def _is_foreign_forward(forward: Any) -> bool:
    """Whether somebody who may look at rows has put this forward in its module's place; Accelerate doesn't look."""
    return not _home(forward).startswith(("transformers.", "torch.", "accelerate."))


@contextmanager
def without_foreign_hooks(model: nn.Module, without_ours: bool = False) -> Iterator[None]:
    """Inside the block, other people's hooks are off: a made-up prompt is none of their business."""

    def is_off(hook: Any) -> bool:
        return is_foreign(hook) or (without_ours and isinstance(hook, Hook))

    found = [*_EVERYWHERE, *_hooks_of(model)]
    before = [(hooks, list(hooks.items())) for hooks in found if any(map(is_off, hooks.values()))]
    for hooks, items in before:
        hooks.clear()
        hooks.update((key, hook) for key, hook in items if not is_off(hook))
    try:
        yield
    finally:
        for hooks, items in before:
            hooks.clear()
            hooks.update(items)  # in the order in which they were put on


def open_blocks(decoder: nn.Module) -> tuple[Any, ...]:
    """The blocks that are open on a decoder, the outermost first."""
    return tuple(_open.get(decoder, ()))


def already_under(decoder: nn.Module) -> str:
    """What to say where a block is opened, or something read, inside another block."""
    flows = dict.fromkeys(text for block in open_blocks(decoder) for text in getattr(block, "flows", ()))
    return (
        f"the model is already under the flow {' and '.join(map(repr, flows))}"
        if flows
        else "a block is open"
    )


@contextmanager
def opened(decoder: nn.Module, block: Any) -> Iterator[None]:
    """Inside, `block` is known to be open on the decoder."""
    blocks = _open.setdefault(decoder, [])
    blocks.append(block)
    try:
        yield
    finally:
        blocks.remove(block)
