"""The one error type for a flow, layer range or layout that a user got wrong."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class FlowError(ValueError):
    """A flow, layer range or layout that cannot mean anything; one line that says what to write instead."""


def nearest(word: str, valid: Iterable[str]) -> str:
    """`"; did you mean 'x'?"` for the valid word closest to `word`, or an empty string where none is close."""
    close = difflib.get_close_matches(word, list(valid), n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""
