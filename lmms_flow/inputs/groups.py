"""Finds the groups of a flow in a real prompt, by the tokenizer's character offsets."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lmms_flow.errors import FlowError, SampleError
from lmms_flow.flow import Flow, Layout
from lmms_flow.flow.layout import QUESTION_PARTS
from lmms_flow.inputs.forms import CLOSING_BREAK
from lmms_flow.inputs.options import Option, find_options, stem_end, true_letter

QUESTION_LABEL = "Question:"
_LINE_BREAK = re.compile(r"\s*\n")


@dataclass(frozen=True)
class EncodedPrompt:
    """A prompt as text and as tokens.

    `text` has one placeholder for the video; `offsets` say for each token which characters of `text` it is made of (a
    video token: the placeholder's). `video` and `frames` are token ranges. With `keeps_breaks` the line break behind
    the question's own words and behind each option belongs to them, as the paper has it for VideoLLaMA3. `unit` is how
    many frames each of `frames` is made of: some processors merge neighbours.
    """

    text: str
    input_ids: tuple[int, ...]
    offsets: tuple[tuple[int, int], ...]
    video: range
    frames: tuple[range, ...]
    keeps_breaks: bool = False
    unit: int = 1

    def first_token(self, position: int, after: int) -> int:
        """The first token from `after` on that starts at the character `position` or later.

        A token belongs to the group in which it starts, and starts at its first character that is not a space: the
        space in front of a word is how tokenizers mark that a word begins.
        """
        for token in range(after, len(self.offsets)):
            start, stop = self.offsets[token]
            piece = self.text[start:stop]
            start += len(piece) - len(piece.lstrip()) if piece.strip() else 0
            if start >= position:
                return token
        return len(self.offsets)


@dataclass(frozen=True)
class PromptGroups:
    """A prompt's layout, the rule by which its question was found, and the letters of its options.

    `true` is the letter of the right one; None where the document does not say it.
    """

    layout: Layout
    rule: str
    letters: tuple[str, ...]
    true: str | None = None


@dataclass(frozen=True)
class Wanted:
    """The groups that must be found in a prompt, and who needs them."""

    groups: frozenset[str]
    whose: str

    @classmethod
    def of(cls, needed: Flow | Wanted) -> Wanted:
        """Those of a flow."""
        return (
            needed
            if isinstance(needed, Wanted)
            else cls(frozenset(needed.groups()), f"the flow {needed.text!r}")
        )


def find_groups(
    prompt: EncodedPrompt, user_text: str, doc: Mapping[str, Any], needed: Flow | Wanted
) -> PromptGroups:
    """The groups of `prompt`, whose last user turn holds `user_text`.

    The question goes from its label "Question:" (else from the beginning of the user's text) to the end of the last
    option that is recognised, or of the text where none is. On Video-MME in the paper's protocol it has the line break
    behind that option too.

    Args:
        prompt: in text and in tokens.
        user_text: what the task wrote in the last user turn.
        doc: the task's document, whose fields say what the question's own words and its options are, where it has such
            fields.
        needed: what names the groups that must be found: a flow, or a trace's wish.

    Raises:
        SampleError: a group that is needed can't be found for sure.
    """
    wanted = Wanted.of(needed)
    named = wanted.groups
    if not prompt.video:
        raise SampleError(f"the prompt has no video, and {wanted.whose} needs its tokens")
    try:
        start = _place(prompt, user_text)
    except SampleError:
        if named <= {"video"}:
            return PromptGroups(_without_question(prompt), "no question: what follows the video is tail", ())
        raise
    text = user_text.strip()
    options = find_options(text, doc)
    label = text.find(QUESTION_LABEL, 0, options[0].start if options else len(text))
    begin = max(label, 0)
    true = true_letter(text, options, doc)
    if prompt.keeps_breaks:
        options = tuple(replace(option, stop=_after_break(text, option.stop)) for option in options)
    end = _question_end(text, options)
    if not text[begin + (len(QUESTION_LABEL) if label >= 0 else 0) : end].strip():
        raise SampleError("the question is empty: the prompt has no text after the video")
    if not options and named & {"options", "true_option", "false_options"}:
        raise SampleError(f"no options were recognised in the question, and {wanted.whose} names them")
    if true is None and named & {"true_option", "false_options"}:
        raise SampleError(f"the document does not say which option is true, and {wanted.whose} needs to know")
    groups = _base_groups(prompt, start + begin, start + end)
    question = groups["question"]
    first_word = begin + len(QUESTION_LABEL) if label >= 0 else begin
    stem = _stem(text, first_word, options, doc, prompt.keeps_breaks)
    parts = _parts(prompt, start, stem, options, true, question)
    rule = f"{'label' if label >= 0 else 'user text'} to {'last option' if options else 'its end'}"
    try:
        layout = Layout(len(prompt.input_ids), {**groups, **parts}, prompt.frames)
    except FlowError as error:
        raise SampleError(str(error)) from None
    return PromptGroups(layout, rule, tuple(option.letter for option in options), true)


def _question_end(text: str, options: Sequence[Option]) -> int:
    """Behind the last option, and the line break that Video-MME's prompt has there."""
    end = options[-1].stop if options else len(text)
    closing = text.removesuffix(CLOSING_BREAK)
    return len(closing) + 1 if closing != text and not closing[end:].strip() else end


def _after_break(text: str, stop: int) -> int:
    """Behind the line break that follows the character `stop`, with all white space up to it; else `stop`."""
    found = _LINE_BREAK.match(text, stop)
    return found.end() if found else stop


def _without_question(prompt: EncodedPrompt) -> Layout:
    """A layout for flows that only need the video."""
    last = len(prompt.input_ids) - 1
    groups = {
        "system": range(prompt.video.start),
        "video": prompt.video,
        "tail": range(prompt.video.stop, last),
    }
    return Layout(last + 1, groups | {"last": range(last, last + 1)}, prompt.frames)


def _place(prompt: EncodedPrompt, user_text: str) -> int:
    """Where the user's text stands in the prompt: behind the video, once."""
    text = user_text.strip()
    if not text:
        raise SampleError("the question is empty: the prompt has no text after the video")
    behind = prompt.offsets[prompt.video[-1]][1]
    start = prompt.text.find(text, behind)
    if start < 0:
        where = "before the video" if text in prompt.text else "not in the prompt as the task wrote it"
        raise SampleError(f"the question can't be found in the prompt: its text is {where} ({text[:60]!r})")
    if prompt.text.find(text, start + 1) >= 0:
        raise SampleError(
            f"the question can't be found in the prompt: its text is there twice ({text[:60]!r})"
        )
    return start


def _base_groups(prompt: EncodedPrompt, begin: int, end: int) -> dict[str, range]:
    video, last = prompt.video, len(prompt.input_ids) - 1
    first = min(prompt.first_token(begin, video.stop), last)
    stop = max(min(prompt.first_token(end, video.stop), last), first)
    if first == stop:
        raise SampleError(
            "the question is empty: none of its tokens lies between the video and the last token"
        )
    return {
        "system": range(video.start),
        "video": video,
        "gap": range(video.stop, first),
        "question": range(first, stop),
        "tail": range(stop, last),
        "last": range(last, last + 1),
    }


def _stem(
    text: str, first: int, options: tuple[Option, ...], doc: Mapping[str, Any], keeps_breaks: bool
) -> tuple[int, int]:
    """The characters of the question's own words, from `first` on: the document's question where it stands there once.

    Else all up to the label "Options:" or the first option. With `keeps_breaks` white space of the question's own and
    the line break behind it belong to them.
    """
    stop = options[0].start if options else len(text)
    own = str(doc.get("question") or "")
    start, end = first, stem_end(text, options)
    if own.strip() and text.count(own.strip(), first, stop) == 1:
        start = text.index(own.strip(), first, stop)
        end = start + len(own.strip())
        if keeps_breaks:
            start -= len(own) - len(own.lstrip())
    return max(start, first), _after_break(text, end) if keeps_breaks else end


def _parts(
    prompt: EncodedPrompt,
    start: int,
    stem: tuple[int, int],
    options: Sequence[Option],
    true: str | None,
    question: range,
) -> dict[str, range | list[range]]:
    """The parts of the question that are known; the stem leaves the labels "Question:" and "Options:" out.

    `stem` and `options` are characters of the user's text, which begins at the prompt's character `start`.
    """

    def tokens(first: int, stop: int) -> range:
        low = prompt.first_token(start + first, question.start)
        high = prompt.first_token(start + stop, question.start)
        return range(min(low, question.stop), min(max(low, high), question.stop))

    parts: dict[str, range | list[range]] = {"stem": tokens(*stem)}
    if options:
        parts["options"] = tokens(options[0].start, options[-1].stop)
    if true is not None:
        spans = {option.letter: tokens(option.start, option.stop) for option in options}
        parts["true_option"] = spans[true]
        parts["false_options"] = [span for letter, span in spans.items() if letter != true]
    assert set(parts) <= set(QUESTION_PARTS)
    return parts
