"""Reads the flows of generated words: what each edge does to the first, the second and the third word of an answer.

for each in read_words("out"):
    curve = each.curve("video:answer", 2)
    print(each.benchmark, curve.layers, curve.mean)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import FlowError, ReportError, nearest
from ..trace.curves import RESAMPLES, Curve, mean_by_clip
from .arms import benchmark_of
from .joining import frames_of, model_of
from .traces import Folders, Traced, read_traces

PROBABILITY = "words.probability"


@dataclass(frozen=True, eq=False)
class AnswerWords:
    """The words of one answer: `change` [word, knockout, centre] in per cent of each word's own probability."""

    place: str
    clip: str
    words: tuple[str, ...]
    change: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class WordMap:
    """The words of answers that were asked for alike; the fields are those of a `FlowMap`."""

    checkpoint: str
    benchmark: str
    protocol: str
    frames: int
    knockouts: tuple[str, ...]
    centres: tuple[int, ...]
    window: int
    style: str
    num_layers: int
    samples: tuple[AnswerWords, ...]

    @property
    def asked(self) -> tuple[object, ...]:
        """All but the samples: what tells words apart."""
        return tuple(getattr(self, item.name) for item in fields(self) if item.name != "samples")

    @property
    def most_words(self) -> int:
        """Of the answer that has most."""
        return max((len(one.words) for one in self.samples), default=0)

    def curve(self, knockout: str, word: int, *, seed: int = 0, resamples: int = RESAMPLES) -> Curve:
        """The mean relative change of the probability of each answer's `word`-th word, from 1.

        The answers are those that have as many words as the longest: the same ones for each word, as in the paper. (Its
        code also leaves out answers whose mean change is positive; that would choose by the outcome.)

        Args:
            knockout: one of `knockouts`.
            word: which word, from 1.
            seed: of the bootstrap.
            resamples: of the clips.

        Raises:
            FlowError: there is no such knockout, or no such word.
        """
        if knockout not in self.knockouts:
            known = ", ".join(self.knockouts)
            raise FlowError(
                f"the words have no knockout {knockout!r}{nearest(knockout, self.knockouts)} (knockouts: {known})"
            )
        if not 1 <= word <= self.most_words:
            raise FlowError(f"there is no word {word}: the answers have {self.most_words} at the most")
        kept = [one for one in self.samples if len(one.words) == self.most_words]
        place = self.knockouts.index(knockout)
        values = np.stack([one.change[word - 1, place] for one in kept])
        clips = [one.clip or one.place for one in kept]
        mean, low, high = mean_by_clip(values, clips, seed=seed, resamples=resamples)
        return Curve(knockout, self.centres, mean, low, high, len(kept), len(set(clips)))


def read_words(folders: str | Path | Folders, records: Folders = ()) -> list[WordMap]:
    """The words in lmms-eval's output folders, or in folders of records; see `read_traces`.

    Raises ReportError where something can't be read; a folder without them gives none.
    """
    return words_in(read_traces(folders, records))


def words_in(traced: Sequence[Traced]) -> list[WordMap]:
    """The words among traced samples. Raises ReportError where the arrays of one can't be read."""
    found: dict[Any, tuple[WordMap, list[AnswerWords]]] = {}
    for one in traced:
        if PROBABILITY not in one.record.shapes:
            continue
        try:
            asked, sample = _read(one)
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise ReportError(
                f"{one.folder / one.record.arrays}: not the words of task {one.record.task}, document "
                f"{one.record.doc_id} ({type(error).__name__}: {error}); delete it and run again"
            ) from None
        found.setdefault(asked.asked, (asked, []))[1].append(sample)
    return [
        replace(asked, samples=tuple(samples)) for _, (asked, samples) in sorted(found.items(), key=_first)
    ]


def _first(item: tuple[Any, object]) -> Any:
    return item[0]


def _read(one: Traced) -> tuple[WordMap, AnswerWords]:
    arrays, record = one.arrays(), one.record
    about, values = arrays.about, arrays.values
    asked = WordMap(
        checkpoint=model_of(record),
        benchmark=benchmark_of(record.base),
        protocol=record.protocol,
        frames=frames_of(record),
        knockouts=tuple(map(str, about["knockouts"])),
        centres=tuple(map(int, about["centres"])),
        window=int(about["window"]),
        style=str(about["style"]),
        num_layers=int(about["num_layers"]),
        samples=(),
    )
    words = tuple(str(word) for _, word in about["anchors"])
    after = values[PROBABILITY].astype(np.float64)
    before = values["words.baseline"].astype(np.float64)[:, None, None]
    if after.shape != (len(words), len(asked.knockouts), len(asked.centres)):
        raise ValueError(f"its probabilities have the shape {after.shape}")
    place = f"question {record.task} {record.doc_id}"
    return asked, AnswerWords(place, one.cluster, words, (after - before) / before * 100)
