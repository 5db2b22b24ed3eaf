"""What a loaded checkpoint is, beyond its name: nothing that was answered by another may be served for it.

What is hashed is what will run: every weight and buffer in memory, every time that a run begins. So it doesn't matter
where it came from (a file behind an old name, size and time, a link, shards, an adapter, code that edits heads), and no
file has to be read again.
"""

from __future__ import annotations

import inspect
import json
import re
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from loguru import logger
from torch import Tensor, nn

from lmms_flow.harness import host
from lmms_flow.records.key import digest

from .fingerprint import Fingerprints

PLACES = re.compile(r'"(_name_or_path|name_or_path|_commit_hash)": [^,}]*')  # where settings were loaded from
# Hooks of these only move tensors or keep outputs; any other may change an answer in a way that nobody can know.
HARMLESS_HOOKS = ("torch.", "transformers.", "accelerate.", "peft.", "bitsandbytes.", "lmms_flow.")
TUNER = ("active_adapters", "merged_adapters", "disable_adapters", "scaling")  # of a layer with adapters


def checkpoint_identity(
    name: str, model: Any, processors: Iterable[Any], tokenizer: Any, classes: Iterable[type] = ()
) -> str:
    """Name, commit, and a hash of weights, buffers, modules, adapters, configurations, processors and tokenizer.

    Args:
        name: of the checkpoint, as the user wrote it.
        model: loaded, on whatever devices it is.
        processors: what else has settings, with a `to_dict`.
        tokenizer: whole, with its merges, normalizer and decoder.
        classes: of wrapper and chat; the source of those that are not this package's is a part of it.
    """
    told = {
        "tensors": list(_tensors(model)),
        "modules": list(_modules(model)),
        "configuration": PLACES.sub("", _json([model.config, getattr(model, "generation_config", None)])),
        "processors": PLACES.sub("", _json(list(processors))),
        "tokenizer": _tokenizer(tokenizer),
        "classes": [_source(kind) for kind in classes],
    }
    commit = getattr(model.config, "_commit_hash", None) or ""
    return f"{name}:{commit}:{digest(told)}"


class WatchedIdentity:
    """The identity of a loaded model, computed anew where its weights may have been edited since.

    Args:
        compute: `checkpoint_identity` of the model.
    """

    def __init__(self, compute: Callable[[], str]) -> None:
        self._compute = compute
        self._known: str | None = None
        self._holds_until = 0.0

    def __call__(self) -> str:
        """As it was when it was last looked at."""
        if self._known is None:
            self.look()
        assert self._known is not None
        return self._known

    def look(self, num_requests: int = 0) -> None:
        """Hashes what is in memory, when a run begins.

        A task that asks in rounds begins a run for each question: within one evaluation it is then done again only
        when a twentieth of the time has gone into it.
        """
        start = time.monotonic()
        if self._known is not None and num_requests == 1 and start < self._holds_until:
            return
        self._known = self._compute()
        taken = time.monotonic() - start
        self._holds_until = time.monotonic() + 20 * taken if host.evaluation() is not None else 0.0

    def forget(self) -> None:
        """The next look is a whole one."""
        self._known = None


def _tensors(model: nn.Module) -> Iterator[list[str]]:
    """Each weight and buffer by its name; tied ones are read once.

    `state_dict` has what quantised weights need beside their codes, the buffers have what it leaves out.
    """
    fingerprints = Fingerprints()
    named: dict[str, Any] = dict(model.state_dict(keep_vars=True))
    named |= dict(model.named_buffers(remove_duplicate=False))
    for name, value in sorted(named.items()):
        if not isinstance(value, Tensor):  # what a module keeps beside its weights
            yield [name, digest(value)]
        elif value.is_meta:
            offloaded = _offloaded(model, name)
            yield [name, _unknown(f"the weight {name}") if offloaded is None else fingerprints.of(offloaded)]
        else:
            yield [name, fingerprints.of(value)]


def _offloaded(model: nn.Module, name: str) -> Tensor | None:
    """A weight that accelerate keeps on the processor or the disk until it is needed; None where it isn't found."""
    path, _, leaf = name.rpartition(".")
    hook = getattr(model.get_submodule(path), "_hf_hook", None)
    for one in (hook, *getattr(hook, "hooks", ())):
        weights = getattr(one, "weights_map", None)
        if weights is not None and leaf in weights:
            return weights[leaf]  # type: ignore[no-any-return]
    return None


def _modules(model: nn.Module) -> Iterator[list[str]]:
    """What the modules are, which adapters are in use, and hooks that were put on them."""
    for name, module in model.named_modules():
        told = [name, f"{type(module).__module__}.{type(module).__qualname__}", str(module.training)]
        told += [_plain(getattr(module, part, None)) for part in TUNER if hasattr(module, "merged_adapters")]
        for hook in (*module._forward_hooks.values(), *module._forward_pre_hooks.values()):
            hook = hook.func if isinstance(hook, partial) else hook
            where = getattr(inspect.unwrap(hook), "__module__", None) or type(hook).__module__
            if not f"{where}.".startswith(HARMLESS_HOOKS):
                told.append(_unknown(f"a hook of {where} on {name or 'the model'}"))
        yield told


def _unknown(what: str) -> str:
    """Equals nothing: what was answered before is not served."""
    logger.warning(f"what {what} does to an answer can't be known: no answer of an earlier run is used")
    return uuid.uuid4().hex


def _plain(value: Any) -> str:
    return json.dumps(value, default=str, sort_keys=True)


def _json(parts: Iterable[Any]) -> str:
    return json.dumps([part.to_dict() for part in parts if part is not None], default=str, sort_keys=True)


def _tokenizer(tokenizer: Any) -> list[str]:
    """Vocabulary, merges, normalizer, decoder, and the settings beside them."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        whole = backend.to_str()
    else:
        files = [getattr(tokenizer, name, None) for name in ("vocab_file", "merges_file")]
        contents = [Path(file).read_bytes().hex() for file in files if file and Path(file).is_file()]
        whole = _plain([contents, dict(tokenizer.get_vocab())])
    settings = {
        name: value
        for name, value in getattr(tokenizer, "init_kwargs", {}).items()
        if not name.endswith(("_file", "name_or_path", "_hash"))
    }
    kept = ("padding_side", "truncation_side", "chat_template", "special_tokens_map", "model_max_length")
    return [digest(whole), _plain([settings, [getattr(tokenizer, name, None) for name in kept]])]


def _source(kind: type) -> list[str]:
    """A class by its name; one that is not this package's by its code as well, which no version tells apart."""
    told = [f"{kind.__module__}.{kind.__qualname__}"]
    for one in kind.__mro__:
        if not f"{one.__module__}.".startswith((*HARMLESS_HOOKS, "lmms_eval.", "builtins.", "abc.")):
            try:
                told.append(digest(inspect.getsource(one)))
            except (OSError, TypeError):  # made by hand
                told.append(f"{one.__module__}.{one.__qualname__}")
    return told
