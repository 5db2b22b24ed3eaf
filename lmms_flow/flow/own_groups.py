"""Groups that a user names in a layout, such as {"subject": [5, 6]}: which names they may have, and where they hold.

A name that no layout is known to have is a slip, and told at once. So these names are known only while a flow is read
beside the layout that has them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")
_RULES = ("cross_frame", "intra_frame")  # are no groups
_known: ContextVar[frozenset[str]] = ContextVar("own groups", default=frozenset())


def may_be_named(name: object) -> bool:
    """Whether a group of one's own may have this name: small letters, digits and underscores, a letter first."""
    return isinstance(name, str) and _NAME.fullmatch(name) is not None and name not in _RULES


def is_known(name: str) -> bool:
    """Whether the layout beside which a flow is being read has this group."""
    return name in _known.get()


@contextmanager
def known(names: Iterable[str]) -> Iterator[None]:
    """Inside the block flows may name these groups."""
    before = _known.set(frozenset(names))
    try:
        yield
    finally:
        _known.reset(before)


def as_ranges(value: object, num_tokens: int) -> list[range] | None:
    """Token positions as ranges; None for what is no list of positions in a prompt of so many tokens."""
    if not isinstance(value, list | tuple | set | frozenset) or not value:
        return None
    if not all(type(token) is int and 0 <= token < num_tokens for token in value):
        return None
    return [range(token, token + 1) for token in sorted(value)]
