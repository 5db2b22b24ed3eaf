"""Listening to the calls of transformers' registered attention functions, one attention module at a time.

While somebody listens, a function of ours stands in the place of the registered one. It hands every call on, and tells
those who listen to the module that makes it. Threads and models share the registry, so it is exchanged under a lock, by
the first who listens, and put back by the last.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from torch import Tensor, nn
from transformers import AttentionInterface

from ..errors import FlowError

# query and key [batch, head, row, width], the mask and everything else that the function is given
Hear: TypeAlias = Callable[[Tensor, Tensor, Any, Mapping[str, Any]], None]

_lock = threading.Lock()
# name -> the function that was registered under it, and who listens to which module
_overheard: dict[str, tuple[Any, dict[nn.Module, Hear]]] = {}


def listen(name: str, attention: nn.Module, hear: Hear) -> Callable[[], None]:
    """Has `hear` told of each call that `attention` makes of the function `name`; gives what ends it.

    Raises FlowError where somebody listens to this module already.
    """
    with _lock:
        if name not in _overheard:
            _overheard[name] = AttentionInterface()[name], {}
            AttentionInterface.register(name, _telling(*_overheard[name]))
        listeners = _overheard[name][1]
        if attention in listeners:
            raise FlowError("a read-out can't be made inside another one of the same model")
        listeners[attention] = hear
    return lambda: _stop(name, attention)


def registered(name: str) -> Any:
    """The attention function that is registered under a name, past ours; None where there is none (eager)."""
    with _lock:
        return _overheard[name][0] if name in _overheard else AttentionInterface().get(name)


def _stop(name: str, attention: nn.Module) -> None:
    with _lock:
        run, listeners = _overheard[name]
        del listeners[attention]
        if not listeners:
            AttentionInterface.register(name, run)
            del _overheard[name]


def _telling(run: Any, listeners: dict[nn.Module, Hear]) -> Any:
    def told(
        module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, **kwargs: Any
    ) -> Any:
        hear = listeners.get(module)
        if hear is not None:
            hear(query, key, attention_mask, kwargs)
        return run(module, query, key, value, attention_mask, **kwargs)

    return told
