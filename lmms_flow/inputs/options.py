"""Recognises the options of a multiple-choice question in the user's text."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

# "(A) left", "A. left", "A: left", "A) left", each at the start of a line. "(A)left" can be nothing else either, while
# "A.left" may be an abbreviation.
_AT_LINE_START = re.compile(r"^[ \t]*(\([A-Z]\)(?=[ \t]*\S)|[A-Z][.:)](?=[ \t]+\S))", re.MULTILINE)
_IN_A_LINE = re.compile(r"(?<=\s)(\([A-Z]\))(?=[ \t]*\S)")
# What may be the next option, written in another way or left empty.
_LIKE_AN_OPTION = re.compile(r"^[ \t]*\(?(?P<letter>[A-Z])[).:](?P<apart>(?!\S))?", re.MULTILINE)
_LABEL = re.compile(r"^[ \t]*Options?:[ \t\r]*$", re.MULTILINE)
# How the line begins that tells what to answer, or closes the list; an option before it is over.
_INSTRUCTION = re.compile(
    r"[ \t]*(?:</|```|(?:Answer|Best option|Choose|Do not|Don't|Give|Now|Only|Output|Pick|Please|Provide|Reply"
    r"|Respond|Return|Select|The (?:best|correct|right) (?:answer|option)|Your answer)\b)",
    re.IGNORECASE,
)
# How options may be marked where their words are known.
_MARKS = ("({})", "{}.", "{}:", "{})")


@dataclass(frozen=True)
class Option:
    """One option: `start` to `stop` are the characters of its mark and words, `words` to `stop` of its words."""

    letter: str
    start: int
    words: int
    stop: int


def find_options(text: str, doc: Mapping[str, Any] | None = None) -> tuple[Option, ...]:
    """The options in `text`, by the words that the document gives for them, else by their marks; empty if none.

    Words that stand in the text as options once are these options, whatever lines they are on. Where they stand there
    more than once, or the marks in the text are not as many as the document's options, there is no telling: none.
    """
    words = option_words(doc or {})
    if words:
        placed = _placed(text, words)
        if placed:
            return placed[0] if len(placed) == 1 else ()
    options = _marked(text)
    return () if words and len(words) != len(options) else options


def option_words(doc: Mapping[str, Any]) -> tuple[str, ...]:
    """The options' words in the document's own fields, without the marks that they may have there; empty if unknown."""
    listed = next((doc[f] for f in ("candidates", "options", "choices") if _is_list(doc.get(f))), None)
    if listed is None:
        numbered = (doc.get(f"option{place}") for place in range(26))
        listed = [text for text in numbered if isinstance(text, str) and text != "N/A"]
    words = [str(text).strip() for text in listed]
    for mark in _MARKS:
        marks = [mark.format(chr(65 + place)) for place in range(len(words))]
        if words and all(text.startswith(f"{own} ") for text, own in zip(words, marks, strict=True)):
            return tuple(text[len(own) :].strip() for text, own in zip(words, marks, strict=True))
    return tuple(words) if len(words) > 1 and all(words) else ()


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
    """The letter of the right option by the document's own fields; None unless they agree on exactly one.

    A letter or a place in the document's list counts only where the text has the document's words at that place: a task
    may show the options in another order.

    Args:
        text: of the user's turn.
        options: as they were found in it.
        doc: the task's document.
    """
    shown = {option.letter: text[option.words : option.stop].strip() for option in options}
    words = option_words(doc)
    stays = {
        letter
        for place, letter in enumerate(shown)
        if not words or (place < len(words) and _same(shown[letter], words[place]))
    }
    found: set[str] = set()
    for field in ("answer_letter", "answer", "correct_choice", "answer_idx"):
        value = doc.get(field)
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(shown):
            found |= stays & {list(shown)[value]}
        elif isinstance(value, str):
            found |= stays & {value.strip().strip("().:")}
            if field != "answer_letter":
                found |= {letter for letter in shown if _same(shown[letter], value.strip())}
    return found.pop() if len(found) == 1 else None


# By the document's words


def _placed(text: str, words: Sequence[str]) -> list[tuple[Option, ...]]:
    """Every way in which the words stand in the text one after another, each behind its mark."""
    styles = [[(mark.format(chr(65 + i)), word) for i, word in enumerate(words)] for mark in _MARKS]
    styles.append([(f"{chr(65 + i)!r}:", repr(word)) for i, word in enumerate(words)])
    found = []
    for style in styles:
        chain = r"\s*(?:[,;|]\s*)?".join(
            rf"(?<![\w(])(?P<o{i}>{re.escape(mark)})\s*(?P<w{i}>{re.escape(word)})(?!\w)"
            for i, (mark, word) in enumerate(style)
        )
        for match in re.finditer(rf"(?=(?:{chain}))", text):
            spans = [(match.start(f"o{i}"), *match.span(f"w{i}")) for i in range(len(words))]
            found.append(tuple(Option(chr(65 + i), *span) for i, span in enumerate(spans)))
    return found


def _is_list(value: Any) -> bool:
    """Whether it can be a list of options: two or more, of words or numbers."""
    return (
        isinstance(value, (list, tuple))
        and len(value) > 1
        and all(isinstance(item, (str, int, float)) for item in value)
    )


def _same(shown: str, words: str) -> bool:
    """Whether the text shows these words, as they are or in quotes as Python prints them."""
    return shown == repr(words) or shown.split() == words.split()


# By marks alone


@dataclass(frozen=True)
class _Mark:
    """A letter with what stands around it, such as "(A)": `start` to `stop` are its characters."""

    letter: str
    style: str
    start: int
    stop: int

    @classmethod
    def of(cls, match: re.Match[str]) -> _Mark:
        letter = match[1].strip("().:")
        return cls(letter, match[1].replace(letter, "{}"), *match.span(1))

    def follows(self, before: _Mark) -> bool:
        return self.style == before.style and ord(self.letter) == ord(before.letter) + 1


def _marked(text: str) -> tuple[Option, ...]:
    """The options of the last list in `text` that starts at A and goes on without a gap.

    An option ends where the next one starts, the last one before the instruction that follows it, else at the end of
    its line. A list of one is no choice. Where a later line looks like a further option that is not of the list, there
    is no telling what the options are: none.
    """
    lists = _lists(_Mark.of(match) for match in _AT_LINE_START.finditer(text))
    marks = next((found for found in reversed(lists) if len(found) > 1), [])
    if not marks and lists:
        marks = _in_a_line(text, lists[-1][0])
    if not marks or _goes_on(text, marks[-1]):
        return ()
    several_lines = any("\n" in text[one.stop : other.start].strip() for one, other in pairwise(marks))
    end = _end_of_list(text, marks[-1].stop, several_lines)
    if end is None:
        return ()
    stops = [*(mark.start for mark in marks[1:]), end]
    return tuple(_option(text, mark, stop) for mark, stop in zip(marks, stops, strict=True))


def _lists(marks: Iterable[_Mark]) -> list[list[_Mark]]:
    """Marks that follow one another in one style, from A on."""
    lists: list[list[_Mark]] = []
    for mark in marks:
        if mark.letter == "A":
            lists.append([mark])
        elif lists and mark.follows(lists[-1][-1]):
            lists[-1].append(mark)
    return lists


def _in_a_line(text: str, first: _Mark) -> list[_Mark]:
    """The marks of "(A) left (B) right"; only in brackets, since "A. Smith met B. Jones" has no options."""
    if first.style != "({})":
        return []
    end = _instruction(text, first.stop)
    found = _IN_A_LINE.finditer(text, first.stop, len(text) if end is None else end)
    marks = [first, *(_Mark.of(match) for match in found)]
    ordered = all(other.follows(one) for one, other in pairwise(marks))
    return marks if ordered and len(marks) > 1 else []


def _end_of_list(text: str, last: int, several_lines: bool) -> int | None:
    """Where the last option ends, whose mark ends at `last`; None where that can't be told.

    `several_lines`: an option before it has more than one line.
    """
    line_end = text.find("\n", last)
    if line_end < 0:
        return len(text)
    instruction = _instruction(text, last)
    if instruction is not None:
        return instruction
    # What follows is neither known as an instruction nor apart from the option.
    return None if several_lines and text[line_end:].strip() else line_end


def _instruction(text: str, after: int) -> int | None:
    """Where the first line behind the one of the character `after` begins that is empty or an instruction."""
    place = text.find("\n", after) + 1
    for line in text[place:].splitlines(keepends=True) if place else ():
        if not line.strip() or _INSTRUCTION.match(line):
            return place
        place += len(line)
    return None


def _goes_on(text: str, last: _Mark) -> bool:
    """Whether something behind the last option begins like the next one, or a line like one after a gap.

    "P.S." does not.
    """
    after = ord(last.letter) + 1
    if f"({chr(after)})" in text[last.stop :] and last.style == "({})":
        return True
    return any(
        ord(match["letter"]) == after or (ord(match["letter"]) > after and match["apart"] is not None)
        for match in _LIKE_AN_OPTION.finditer(text, last.stop)
    )


def _option(text: str, mark: _Mark, stop: int) -> Option:
    words = mark.stop + len(text[mark.stop : stop]) - len(text[mark.stop : stop].lstrip())
    return Option(mark.letter, mark.start, words, mark.start + len(text[mark.start : stop].rstrip()))
