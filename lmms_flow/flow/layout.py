"""Where each group of tokens lies in one prompt."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from types import MappingProxyType
from typing import Any, TypeAlias

from ..errors import FlowError, nearest
from .own_groups import as_ranges, is_known, may_be_named

BASE_GROUPS = ("system", "video", "gap", "question", "tail", "last")
QUESTION_PARTS = ("stem", "options", "true_option", "false_options")
TEXT = "text"  # everything after the video
TEXT_GROUPS = ("gap", "question", "tail", "last")
ANSWER = "answer"  # what was generated so far, in front of the last token: a part of `tail`
GIVEN = (*BASE_GROUPS, *QUESTION_PARTS, ANSWER)  # to a layout
GROUPS = (*GIVEN, TEXT)
FIRST_FRAME, LAST_FRAME = "frame.first", "frame.last"
_FRAME = re.compile(r"frame\.(0|-?[1-9][0-9]{0,5})")

TOO_NEAR = 0.75  # a group of one's own whose name is as near to one of ours is taken for a slip

Span: TypeAlias = tuple[range, ...]


def frame_number(name: str) -> int | None:
    """The i of `frame.i`, which counts from the end where it is negative; None for every other name."""
    if name in (FIRST_FRAME, LAST_FRAME):
        return 0 if name == FIRST_FRAME else -1
    match = _FRAME.fullmatch(name)
    return int(match[1]) if match else None


def check_group(name: str, where: str) -> str:
    """The name of a group, in the one spelling that a group has.

    `frame.first` is `frame.0` and `frame.-1` is `frame.last`. Raises a FlowError that quotes `where` and names the
    nearest group for a name that is none.
    """
    frame = frame_number(name)
    if frame is not None:
        return LAST_FRAME if frame == -1 else f"frame.{frame}"
    if name in GROUPS or is_known(name):
        return name
    valid = (*GROUPS, "frame.0", FIRST_FRAME, LAST_FRAME)
    raise FlowError(
        f"{where}: there is no group {name!r}{nearest(name, valid)} "
        f"(groups: {', '.join(GROUPS)}, frame.N, {FIRST_FRAME}, {LAST_FRAME}, frame.-N)"
    )


def group_ranks(name: str) -> tuple[int, int]:
    """The places in the prompt of a group's first and last base group, as far as they are known without a layout.

    Raises LookupError for a group of the user's own: the layout alone knows.
    """
    if frame_number(name) is not None:
        name = "video"
    if name not in GROUPS:
        raise LookupError(name)
    within = "question" if name in QUESTION_PARTS else "tail" if name == ANSWER else name
    groups = TEXT_GROUPS if name == TEXT else (within,)
    return BASE_GROUPS.index(groups[0]), BASE_GROUPS.index(groups[-1])


def merge(ranges: Iterable[range]) -> Span:
    """The same tokens as few, ascending, disjoint ranges; empty ones are dropped."""
    merged: list[range] = []
    for part in sorted((r for r in ranges if len(r)), key=lambda r: r.start):
        if merged and part.start <= merged[-1].stop:
            merged[-1] = range(merged[-1].start, max(merged[-1].stop, part.stop))
        else:
            merged.append(range(part.start, part.stop))
    return tuple(merged)


def _as_span(value: Any, name: str) -> Span:
    ranges = (
        (value,)
        if isinstance(value, range)
        else tuple(value)
        if isinstance(value, list | tuple)
        else (value,)
    )
    if any(not isinstance(r, range) or r.step != 1 for r in ranges):
        raise FlowError(
            f"layout: group {name!r} must be a range or a list of ranges with step 1, not {value!r}"
        )
    return merge(ranges)


def _own_span(name: str, value: Any, num_tokens: int) -> Span:
    """The tokens of a group of the user's own. Raises FlowError."""
    close = nearest(name, GROUPS) if isinstance(name, str) else ""
    if not may_be_named(name) or get_close_matches(name, GROUPS, n=1, cutoff=TOO_NEAR):
        raise FlowError(
            f"layout: there is no group {name!r}{close}; a group of your own has small letters, digits and '_', "
            "and no name that is nearly one of ours"
        )
    ranges = as_ranges(value, num_tokens)
    try:
        span = merge(ranges) if ranges is not None else _as_span(value, name)
    except FlowError:
        raise FlowError(
            f"layout: there is no group {name!r}{close}; a group of your own is a list of token positions from 0 to "
            f"{num_tokens - 1}, or ranges, not {value!r}"
        ) from None
    if not span or span[0].start < 0 or span[-1].stop > num_tokens:
        raise FlowError(
            f"layout: group {name!r} must lie within the prompt's {num_tokens} tokens, not at {value!r}"
        )
    return span


@dataclass(frozen=True, init=False)
class Layout:
    """The groups of one prompt, in token positions from 0 that leave padding out.

    Args:
        num_tokens: of the prompt.
        groups: a range, or several, for each group. `system, video, gap, question, tail, last` cover the prompt in this
            order without overlap; any of them but `last` (the last prompt token) may be empty or left out. `stem`,
            `options`, `true_option` and `false_options` lie inside `question`, `answer` inside `tail`.
        frames: the tokens of each frame; they partition `video`.

    A group of one's own is any other name with its tokens, as ranges or as positions: `{"subject": [5, 6]}`. Flows that
    are read beside the layout (`intervene`, `sweep`, `keep_masks`) may name it.

    Raises:
        FlowError: one of these does not hold.
    """

    num_tokens: int
    groups: Mapping[str, Span]
    frames: tuple[range, ...]

    def __init__(
        self,
        num_tokens: int,
        groups: Mapping[str, range | Sequence[range] | Sequence[int]],
        frames: Sequence[range] = (),
    ) -> None:
        if not isinstance(num_tokens, int) or num_tokens < 1:
            raise FlowError(f"layout: num_tokens must be a number of tokens, not {num_tokens!r}")
        if TEXT in groups:
            raise FlowError(f"layout: there is no group {TEXT!r} to be given: it follows from the others")
        own = {name: _own_span(name, groups[name], num_tokens) for name in groups if name not in GROUPS}
        spans = {
            name: _as_span(groups.get(name, ()), name)
            for name in GIVEN
            if name in groups or name in BASE_GROUPS
        } | own
        if any(not isinstance(frame, range) or frame.step != 1 for frame in frames):
            raise FlowError("layout: the frames must be ranges with step 1, one a frame")
        object.__setattr__(self, "num_tokens", num_tokens)
        object.__setattr__(self, "groups", MappingProxyType(spans))
        object.__setattr__(self, "frames", tuple(range(r.start, r.stop) for r in frames))
        self._check()

    @property
    def own(self) -> tuple[str, ...]:
        """The names of the groups that a user added."""
        return tuple(name for name in self.groups if name not in GROUPS)

    def with_groups(self, **groups: range | Sequence[range] | Sequence[int]) -> Layout:
        """The same prompt with groups of one's own: `layout.with_groups(subject=[5, 6])`."""
        return Layout(
            self.num_tokens, {**{n: list(s) for n, s in self.groups.items()}, **groups}, self.frames
        )

    def _repr_html_(self) -> str:
        from ..notebook import prompt_bar

        about = f"prompt of {self.num_tokens} tokens, {len(self.frames)} frames"
        return prompt_bar(about, self.num_tokens, self.groups, BASE_GROUPS)

    def __hash__(self) -> int:
        return hash((self.num_tokens, tuple(self.groups.items()), self.frames))

    def __reduce__(self) -> tuple[type[Layout], tuple[int, dict[str, list[range]], tuple[range, ...]]]:
        return Layout, (
            self.num_tokens,
            {name: list(span) for name, span in self.groups.items()},
            self.frames,
        )

    def _check(self) -> None:
        end = 0
        for name in BASE_GROUPS:
            span = self.groups[name]
            if len(span) > 1 or (span and span[0].start != end):
                found = ", ".join(f"{r.start}-{r.stop - 1}" for r in span)
                raise FlowError(
                    f"layout: group {name!r} must start at token {end} in one piece (the base groups cover the prompt "
                    f"in the order {', '.join(BASE_GROUPS)}), it is at {found}"
                )
            end = span[0].stop if span else end
        if end != self.num_tokens:
            raise FlowError(f"layout: the base groups end at token {end} of {self.num_tokens}")
        if self.groups["last"] != (range(self.num_tokens - 1, self.num_tokens),):
            raise FlowError(
                f"layout: group 'last' must be the last prompt token alone, token {self.num_tokens - 1}"
            )
        if self.frames and (merge(self.frames) != self.groups["video"] or not self._frames_touch()):
            raise FlowError("layout: the frames must partition the group 'video', in order")
        question = {i for r in self.groups["question"] for i in r}
        for name in QUESTION_PARTS:
            if not question.issuperset(i for r in self.groups.get(name, ()) for i in r):
                raise FlowError(f"layout: group {name!r} must lie inside 'question'")
        tail = {i for r in self.groups["tail"] for i in r}
        if not tail.issuperset(i for r in self.groups.get(ANSWER, ()) for i in r):
            raise FlowError(f"layout: group {ANSWER!r} must lie inside 'tail'")

    def _frames_touch(self) -> bool:
        pairs = zip(self.frames, self.frames[1:], strict=False)
        return all(len(r) for r in self.frames) and all(a.stop == b.start for a, b in pairs)

    def span(self, name: str) -> Span:
        """The tokens of a group. Raises FlowError for a frame or a question part that this prompt was not given."""
        frame = frame_number(name)
        if frame is not None:
            if not -len(self.frames) <= frame < len(self.frames):
                raise FlowError(f"group {name!r} does not exist: this prompt has {len(self.frames)} frames")
            return (self.frames[frame],)
        if name == TEXT:
            return merge(part for group in TEXT_GROUPS for part in self.groups[group])
        if name not in self.groups:
            check_group(name, f"group {name!r}")
            if name == ANSWER:  # a prompt that no answer has begun in
                return ()
            raise FlowError(f"group {name!r} was not found in this prompt")
        return self.groups[name]

    def size(self, name: str) -> int:
        """The number of tokens in a group."""
        return sum(len(r) for r in self.span(name))

    def with_answer(self, generated: int, open_tokens: int = 0) -> Layout:
        """The layout of this prompt with its answer so far: the last generated token is `last`, the others `answer`.

        What was the prompt's last token is template text then, the end of `tail` in front of the answer.

        Args:
            generated: tokens of the answer behind the prompt.
            open_tokens: so many in front of the last one belong to no part that can be cut (the paper's code leaves
                one open).

        Raises:
            FlowError: there is no such number of tokens.
        """
        if generated < 0 or open_tokens < 0:
            raise FlowError(f"an answer has 0 or more tokens, not {min(generated, open_tokens)}")
        if not generated:
            return self
        last = self.num_tokens + generated - 1
        tail = self.groups["tail"][0].start if self.groups["tail"] else self.num_tokens - 1
        groups = {
            name: list(span) for name, span in self.groups.items() if name not in ("tail", "last", ANSWER)
        }
        begun = self.groups.get(ANSWER, ())[:1]
        answer = range(begun[0].start if begun else self.num_tokens, max(last - open_tokens, self.num_tokens))
        groups |= {"tail": [range(tail, last)], ANSWER: [answer], "last": [range(last, last + 1)]}
        return Layout(last + 1, groups, self.frames)

    def group_of(self, token: int) -> str:
        """The base group in which a token lies."""
        return next(name for name in BASE_GROUPS if any(token in r for r in self.groups[name]))

    def borders(self) -> Iterator[int]:
        """Every position where a base group, a frame or a part of the question starts or ends."""
        for ranges in (*self.groups.values(), self.frames):
            for r in ranges:
                yield r.start
                yield r.stop


def prompt_layout(
    *, system: int, frames: int, tokens_per_frame: int, gap: int, question: int, tail: int
) -> Layout:
    """A layout from the lengths of its groups.

    A third of the question stands for its stem, the rest for two options of which the first is true.

    Args:
        system: tokens before the video.
        frames: how many there are.
        tokens_per_frame: of each frame.
        gap: tokens of template text between video and question.
        question: tokens of the question with its options.
        tail: tokens of template text behind it, without the last prompt token, which comes on top.
    """
    lengths = {
        "system": system,
        "video": frames * tokens_per_frame,
        "gap": gap,
        "question": question,
        "tail": tail,
    }
    groups: dict[str, range] = {}
    end = 0
    for name, length in (*lengths.items(), ("last", 1)):
        groups[name] = range(end, end + length)
        end += length
    words = groups["question"]
    thirds = [
        words.start + len(words) * part // 3 for part in range(4)
    ]  # a stem and two options, the first one true
    groups |= {"stem": range(thirds[0], thirds[1]), "options": range(thirds[1], thirds[3])}
    groups |= {"true_option": range(thirds[1], thirds[2]), "false_options": range(thirds[2], thirds[3])}
    start = groups["video"].start
    cells = [range(start + i * tokens_per_frame, start + (i + 1) * tokens_per_frame) for i in range(frames)]
    return Layout(end, groups, cells if tokens_per_frame else [])
