"""Marks by which an object is known again, when it may be gone and another lies at its address."""

from __future__ import annotations

from typing import Any
from weakref import ref


class Mark(ref[Any]):
    """Equal to the marks of the very same object, for as long as that lives; the object is not held."""

    __slots__ = ()
    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        mine = self()
        return mine is not None and isinstance(other, Mark) and other() is mine

    def __ne__(self, other: object) -> bool:
        return not self == other


def mark(thing: Any) -> Any:
    """The mark of an object; the object itself where it can't be marked, which is then held."""
    try:
        return None if thing is None else Mark(thing)
    except TypeError:
        return thing
