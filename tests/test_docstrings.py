"""What `help` says of the public names: every argument, what is raised, and the axes of every tensor."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any

import pytest

# Of the modules that the docs send a user to; those of `inputs` are what a wrapper of another family overrides.
MODULES = (
    "",
    ".engine",
    ".flow",
    ".trace",
    ".inputs.chat",
    ".inputs.forms",
    ".inputs.groups",
    ".inputs.video",
)


def functions() -> Iterator[tuple[str, Callable[..., Any]]]:
    """The public functions, and the public methods of the public classes, each once."""
    seen: set[int] = set()
    for name in MODULES:
        module = import_module(f"lmms_flow{name}")
        for public in getattr(module, "__all__", [one for one in vars(module) if not one.startswith("_")]):
            found = getattr(module, public)
            if not getattr(found, "__module__", "").startswith("lmms_flow") or id(found) in seen:
                continue
            seen.add(id(found))
            if inspect.isfunction(found):
                yield f"{found.__module__}.{public}", found
            elif inspect.isclass(found):
                for method, value in vars(found).items():
                    value = getattr(value, "fget", None) or getattr(value, "__func__", value)
                    if inspect.isfunction(value) and not method.startswith("_"):
                        yield f"{found.__module__}.{public}.{method}", value


FUNCTIONS = dict(functions())


@pytest.mark.parametrize("name", FUNCTIONS)
def test_its_docstring_tells(name: str) -> None:
    function = FUNCTIONS[name]
    text, signature = inspect.getdoc(function) or "", inspect.signature(function)
    parameters = [one for one in signature.parameters.values() if one.name not in ("self", "cls")]
    assert text
    if len(parameters) > 2:
        told = text.partition("Args:")[2]
        assert [one.name for one in parameters if f"{one.name}: " not in told] == [], (
            "arguments without a word"
        )
        assert "raise " not in inspect.getsource(function) or "Raises" in text
    if any("Tensor" in str(one) for one in (*parameters, signature.return_annotation)):
        assert "[" in text, "a tensor without its axes"


def test_there_are_such_functions() -> None:
    assert {"lmms_flow.engine.sweep.sweep", "lmms_flow.flow.flow.Flow.load"} <= FUNCTIONS.keys()
