"""What somebody meant who wrote a flow as papers, shells and other languages write it; for errors alone."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from ..errors import FlowError

LONGEST = 1000  # characters of what somebody wrote by hand; looking for arrows in more takes its time
_DASHES = re.compile("[‐‑‒–—―−]")
_ARROWS = re.compile(r"\s*(?:-+\s*/+\s*-*>|-*\|>|[-=]+>|[→⟶⇒↛⇏])\s*")
_JOINS = re.compile(r"\s*(?:[,;&+]|\band\b)\s*")
_IN_LAYERS = re.compile(r"\s*(?:@|[\[(])\s*(?:layers?\s*)?([0-9]*)\s*(?:-|:|\.\.+|to)\s*([0-9]*)\s*[\])]?")
_WORDS = {  # the paper's names of groups, and other ways to write ours
    r"cross[- ]?frame(?: interactions?)?": "cross_frame",
    r"non-?option question": "stem",
    r"true[- ]options?": "true_option",
    r"false[- ]options?": "false_options",
    r"last[- ]token": "last",
    r"\b(?:vision|visual|videos)\b": "video",
    r"\bquestions\b": "question",
    r"\bfirst[- ]half\b": "first_half",
    r"\bsecond[- ]half\b": "second_half",
}


def respelt(text: str, read: Callable[[str], object]) -> str | None:
    """The flow or rule that was meant; None where nothing near can be read by `read`, which raises FlowError."""
    if len(text) > LONGEST:
        return None
    for candidate in _candidates(text):
        if candidate == text:
            continue
        try:
            read(candidate)
        except FlowError:
            continue
        return candidate
    return None


def _candidates(text: str) -> Iterator[str]:
    """From what changes least to what changes most."""
    plain = _DASHES.sub("-", text).strip().strip("'\"`‘’“”")
    yield plain
    lower = _ARROWS.sub(":", plain.lower())
    for pattern, word in _WORDS.items():
        lower = re.sub(pattern, word, lower)
    lower = _IN_LAYERS.sub(r"@\1-\2", _JOINS.sub("+", lower)) if "@" in lower or "[" in lower else lower
    lower = re.sub(r"\s*([:@+-])\s*", r"\1", _JOINS.sub("+", lower))
    yield lower
    yield lower.replace(" ", "_")
    yield re.sub(r"(?<=[a-z])[- ](?=[a-z])", ":", lower)  # a dash between two groups
    yield lower.replace("_", "-")  # presets
    yield lower.replace("-", "_")  # effective_closed
