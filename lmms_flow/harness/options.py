"""Recognises the options of a multiple-choice question in the user's text."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# "(A) left", "A. left", "A: left", "A) left", each at the start of a line. "(A)left" can be nothing else either, while
# "A.left" may be an abbreviation.
_OPTION = re.compile(
    r"^[ \t]*(?P<mark>\((?P<p>[A-Z])\)(?=[ \t]*\S)|(?P<l>[A-Z])(?P<sep>[.:)])(?=[ \t]+\S))", re.MULTILINE
)
# What may be the next option, written in another way or left empty.
_LIKE_AN_OPTION = re.compile(r"^[ \t]*\(?(?P<letter>[A-Z])[).:](?P<apart>(?!\S))?", re.MULTILINE)
_LABEL = re.compile(r"^[ \t]*Options:[ \t\r]*$", re.MULTILINE)


@dataclass(frozen=True)
class Option:
    """One option: `start` to `stop` are the characters of its mark and words, `words` to `stop` of its words."""

    letter: str
    start: int
    words: int
    stop: int


def find_options(text: str) -> tuple[Option, ...]:
    """The options of the last list in `text` that starts at A and goes on without a gap; empty if there is none.

    An option ends where the next one starts, the last one at the end of its line. A list of one is no choice. Where a
    later line looks like a further option that is not of the list, there is no telling what the options are: none.
    """
    lists: list[list[re.Match[str]]] = []
    for match in _OPTION.finditer(text):
        style = match["sep"] or "()"
        if _letter(match) == "A":
            lists.append([match])
        elif lists and _follows(lists[-1][-1], match) and (lists[-1][0]["sep"] or "()") == style:
            lists[-1].append(match)
    marks = next((found for found in reversed(lists) if len(found) > 1), [])
    if marks and _goes_on(text, marks[-1]):
        return ()
    stops = [match.start() for match in marks[1:]]
    if marks:
        line_end = text.find("\n", marks[-1].end())
        stops.append(len(text) if line_end < 0 else line_end)
    return tuple(_option(text, match, stop) for match, stop in zip(marks, stops, strict=True))


def stem_end(text: str, options: tuple[Option, ...]) -> int:
    """Where the question's own words end: before the label "Options:" or the first option."""
    if not options:
        return len(text.rstrip())
    before = text[: options[0].start]
    label = None
    for label in _LABEL.finditer(before):  # noqa: B007  (the last one counts)
        pass
    return len(before[: label.start() if label else None].rstrip())


def true_letter(text: str, options: tuple[Option, ...], doc: Mapping[str, Any]) -> str | None:
    """The letter of the right option by the document's own fields; None unless they agree on exactly one."""
    letters = [option.letter for option in options]
    found: set[str] = set()
    for value in (doc.get(field) for field in ("answer_letter", "answer", "correct_choice", "answer_idx")):
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(letters):
            found.add(letters[value])
        elif isinstance(value, str):
            found |= {letter for letter in letters if value.strip().strip("().:") == letter}
            found |= {o.letter for o in options if text[o.words : o.stop].strip() == value.strip()}
    return found.pop() if len(found) == 1 else None


def _letter(match: re.Match[str]) -> str:
    return str(match["p"] or match["l"])


def _follows(before: re.Match[str], match: re.Match[str]) -> bool:
    return ord(_letter(match)) == ord(_letter(before)) + 1


def _goes_on(text: str, last: re.Match[str]) -> bool:
    """Whether a line behind the last option begins like the next one, or like one after a gap ("P.S." does not)."""
    after = ord(_letter(last)) + 1
    return any(
        ord(match["letter"]) == after or (ord(match["letter"]) > after and match["apart"] is not None)
        for match in _LIKE_AN_OPTION.finditer(text, last.end())
    )


def _option(text: str, match: re.Match[str], stop: int) -> Option:
    start = match.start("mark")
    words = match.end() + len(text[match.end() : stop]) - len(text[match.end() : stop].lstrip())
    return Option(_letter(match), start, words, start + len(text[start:stop].rstrip()))
