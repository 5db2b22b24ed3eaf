"""Random prompts and flows for property tests, and what they mean written out token by token.

Nothing here asks the package what a group, a rule or a pathway means: token sets are made from the lengths that were
drawn, and every cut is an array of (query, key) pairs.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from lmms_flow.flow import Flow, LayerRange, Layout, Pathway
from lmms_flow.flow.random_cut import RandomCut

Pairs = NDArray[np.bool_]  # [query, key]
Tokens = NDArray[np.bool_]  # [token]
BASE = ("system", "video", "gap", "question", "tail", "last")
PARTS = ("stem", "options", "true_option", "false_options")
NAMES = (*BASE, *PARTS, "answer", "text", "frame.0", "frame.1", "frame.2", "frame.last", "frame.-2")


@dataclass(frozen=True)
class Prompt:
    """A prompt as it was drawn: the tokens of every group, and the layout that says the same."""

    tokens: dict[str, frozenset[int]]
    frames: tuple[range, ...]
    layout: Layout

    @property
    def num_tokens(self) -> int:
        return self.layout.num_tokens

    def of(self, name: str) -> frozenset[int] | None:
        """The tokens of a group; None for a frame that the prompt has not."""
        if name == "text":
            return frozenset().union(*(self.tokens[g] for g in ("gap", "question", "tail", "last")))
        if name.startswith("frame."):
            number = {"frame.last": -1}.get(name)
            number = int(name.removeprefix("frame.")) if number is None else number
            inside = -len(self.frames) <= number < len(self.frames)
            return frozenset(self.frames[number]) if inside else None
        return self.tokens[name]

    def base_group(self, token: int) -> str:
        return next(name for name in BASE if token in self.tokens[name])

    @cached_property
    def triangle(self) -> Pairs:
        return np.tril(np.ones((self.num_tokens, self.num_tokens), dtype=np.bool_))

    def rectangle(self, keys: Iterable[int], queries: Iterable[int]) -> Pairs:
        """Every query of some with every key of some, on and below the diagonal."""
        found = np.zeros_like(self.triangle)
        found[np.ix_(list(queries), list(keys))] = True
        return found & self.triangle


def prompt(
    system: int, frames: list[int], gap: int, words: list[str], tail: int, answer: int, extra: list[bool]
) -> Prompt:
    """A prompt from lengths; `words` says of each question token which part it is of, `extra` widens `options`."""
    lengths = (system, sum(frames), gap, len(words), tail, 1)
    tokens, end = {}, 0
    for name, length in zip(BASE, lengths, strict=True):
        tokens[name] = frozenset(range(end, end + length))
        end += length
    cells, start = [], system
    for size in frames:
        cells.append(range(start, start + size))
        start += size
    first = system + sum(frames) + gap
    of_part = {name: {first + i for i, word in enumerate(words) if word == name} for name in PARTS}
    wider = {first + i for i, more in enumerate(extra[: len(words)]) if more}
    of_part["options"] |= of_part["true_option"] | of_part["false_options"] | wider
    tokens |= {name: frozenset(found) for name, found in of_part.items()}
    behind = max(tokens["tail"], default=-1)
    tokens["answer"] = frozenset(range(behind - min(answer, tail) + 1, behind + 1))
    groups = {name: [range(t, t + 1) for t in sorted(found)] for name, found in tokens.items()}
    return Prompt(tokens, tuple(cells), Layout(end, groups, cells))


WORDS = ("stem", "options", "true_option", "false_options", "")
PROMPTS = st.builds(
    prompt,
    system=st.integers(0, 3),
    frames=st.lists(st.integers(1, 3), max_size=4),
    gap=st.integers(0, 2),
    words=st.lists(st.sampled_from(WORDS), max_size=6),
    tail=st.integers(0, 3),
    answer=st.integers(0, 2),
    extra=st.lists(st.booleans(), min_size=6, max_size=6),
)

# A range of layers: how it is written, and its first and last layer in a model of some depth (None: to its end).
Range = tuple[str, int, int]


@st.composite
def ranges(draw: st.DrawFn, depth: int) -> Range:
    """How a range may be written, and what it means in a model of this depth."""
    a, b = sorted((draw(st.integers(1, depth)), draw(st.integers(1, depth))))
    spelt = [(f"{a}-{b}", a, b), (f"{a}-", a, depth), (f"-{b}", 1, b), (f"{a}", a, a), ("all", 1, depth)]
    if depth > 1:
        spelt += [("first_half", 1, depth // 2), ("second_half", depth // 2 + 1, depth)]
    return draw(st.sampled_from(spelt))


@dataclass(frozen=True)
class Term:
    """One rule of a flow: (source, target) or a named one, and the layers in which it cuts."""

    source: str
    target: str | None
    layers: tuple[Range, ...]

    @property
    def text(self) -> str:
        name = self.source if self.target is None else f"{self.source}:{self.target}"
        at = "/".join(text for text, _, _ in self.layers)
        return f"{name}@{at}" if self.layers else name

    def cuts_in(self, layer: int) -> bool:
        return not self.layers or any(first <= layer <= last for _, first, last in self.layers)

    def pairs(self, shown: Prompt) -> Pairs:
        """What it cuts of the causal triangle."""
        if self.target is not None:
            return shown.rectangle(shown.of(self.source) or (), shown.of(self.target) or ())
        found = np.zeros_like(shown.triangle)
        for frame in shown.frames:
            if self.source == "cross_frame":
                found |= shown.rectangle(range(shown.frames[0].start, frame.start), frame)
            else:
                found |= shown.rectangle(frame, frame) & ~np.eye(shown.num_tokens, dtype=np.bool_)
        return found


@st.composite
def terms(draw: st.DrawFn, depth: int, names: tuple[str, ...] = NAMES) -> Term:
    """Any rule that no prompt at all forbids is among them, and many that each prompt forbids."""
    layers = tuple(draw(st.lists(ranges(depth), max_size=2)))
    if draw(st.integers(0, 5)) == 0:
        return Term(draw(st.sampled_from(("cross_frame", "intra_frame"))), None, layers)
    return Term(draw(st.sampled_from(names)), draw(st.sampled_from(names)), layers)


@dataclass(frozen=True)
class Drawn:
    """A pathway as it was drawn: its kept layers, None where a kind is kept nowhere."""

    kept: tuple[Range | None, Range | None, Range | None]
    closed: bool
    mirrored: bool
    depth: int

    @property
    def flow(self) -> Flow:
        a, b, c = (None if each is None else LayerRange(each[0]) for each in self.kept)
        return Flow("pathway", "drawn", "drawn", pathways=(Pathway(a, b, c, self.closed, self.mirrored),))

    def layers(self, kind: int) -> set[int]:
        found = self.kept[kind]
        if found is None:
            return set()
        layers = range(found[1], found[2] + 1)
        return {self.depth + 1 - layer for layer in layers} if self.mirrored else set(layers)

    def cut(self, shown: Prompt, layer: int) -> Pairs:
        """The two readings of "everything else of those kinds", as docs/language.md words them."""
        video, question, gap, tail, last = (
            shown.tokens[name] for name in ("video", "question", "gap", "tail", "last")
        )
        asks, ends = (question | gap, last | tail) if self.closed else (question, last)
        frames_kept, read_kept, answer_kept = map(self.layers, range(3))
        cut = shown.rectangle(video, ends) | shown.rectangle(last, last)
        if layer not in frames_kept:
            cut |= Term("cross_frame", None, ()).pairs(shown)
        if layer not in read_kept:
            cut |= shown.rectangle(video, asks)
        if layer not in answer_kept:
            cut |= shown.rectangle(asks, ends)
        if read_kept and layer > max(read_kept):
            cut |= shown.rectangle(video, video)
        if answer_kept and layer > max(answer_kept):
            cut |= shown.rectangle(asks, asks)
        return cut


@st.composite
def pathways(draw: st.DrawFn, depth: int) -> Drawn:
    kept = tuple(draw(st.none() | ranges(depth)) for _ in range(3))
    if not any(kept):
        kept = (draw(ranges(depth)), None, None)
    a, b, c = kept
    return Drawn((a, b, c), draw(st.booleans()), draw(st.booleans()), depth)


def random_flow(share: float, seed: int) -> Flow:
    return Flow("random", "drawn", "drawn", random=RandomCut(seed, share=share))
