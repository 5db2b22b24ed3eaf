"""Words of generated answers: what each edge does to the first, the second, the third (the paper's Fig D)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from ..answer_words import WordMap, words_in
from ..traces import Traced
from .curve_figures import curve_figure, lowest
from .parts import Block, Section, asked_of, short_checkpoint
from .pictures import Picture, slug

LEAD = (
    "Where the words of a generated answer come from: the answer ends in front of a word, and one kind of edge is "
    "cut in the layers around each layer. Shown is the relative change of the word's probability, mean over answers, "
    "with 95 % intervals from resampling whole clips. The source answer is what was generated before."
)


def word_section(traced: Sequence[Traced], seed: int, commands: Sequence[str]) -> Section | None:
    """The section of all words; None where there is none."""
    blocks = tuple(_block(one, place, seed) for place, one in enumerate(words_in(traced)) if one.most_words)
    return Section("words", "Words of the answer", LEAD, blocks, tuple(commands)) if blocks else None


def _block(one: WordMap, place: int, seed: int) -> Block:
    kept = [sample for sample in one.samples if len(sample.words) == one.most_words]
    whose = asked_of(one.benchmark, one.checkpoint, one.frames, one.protocol)
    text = (
        f"{whose}: {one.style}, windows of {one.window} layers; "
        f"{len(kept)} of {len(one.samples)} answers have {one.most_words} such words."
    )
    return Block(text=text, pictures=tuple(_pictures(one, place, seed)))


def _pictures(one: WordMap, place: int, seed: int) -> Iterator[Picture]:
    for word in range(1, one.most_words + 1):
        curves = [one.curve(rule, word, seed=seed) for rule in one.knockouts]
        spoken = Counter(
            sample.words[word - 1] for sample in one.samples if len(sample.words) == one.most_words
        )
        said = ", ".join(f"{text} ({count})" for text, count in spoken.most_common(5))
        caption = f"Word {word} of the answer, such as {said}: relative change of its probability."
        name = slug(one.benchmark, short_checkpoint(one.checkpoint), "word", place + 1, word)
        alt = f"{caption} {'; '.join(map(lowest, curves))}."
        yield Picture(name, caption, alt, curve_figure(curves, f"word {word}"))
