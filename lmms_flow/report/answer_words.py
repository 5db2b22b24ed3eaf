"""Reads the flows of generated words: what each edge does to the first, the second and the third word of an answer.

for each in read_words("out"):
    curve = each.curve("video:answer", 2)
    print(each.benchmark, curve.layers, curve.mean)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import FlowError, nearest
from ..records.arrays import Arrays
from ..trace.curves import RESAMPLES, AskedAlike, Curve, mean_by_clip
from .alike import collected, in_windows
from .traces import Folders, Traced, read_traces

PROBABILITY = "words.probability"


@dataclass(frozen=True, eq=False)
class AnswerWords:
    """The words of one answer: `change` [word, knockout, centre] in per cent of each word's own probability."""

    place: str
    clip: str
    words: tuple[str, ...]
    change: NDArray[np.float64]


@dataclass(frozen=True, eq=False, repr=False)
class WordMap(AskedAlike):
    """The words of answers that were asked for alike."""

    samples: tuple[AnswerWords, ...]

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
    return collected(traced, PROBABILITY, "words", _read)


def _read(one: Traced, arrays: Arrays) -> tuple[WordMap, AnswerWords]:
    record, about, values = one.record, arrays.about, arrays.values
    asked = WordMap(**in_windows(one, about))
    words = tuple(str(word) for _, word in about["anchors"])
    after = values[PROBABILITY].astype(np.float64)
    before = values["words.baseline"].astype(np.float64)[:, None, None]
    if after.shape != (len(words), len(asked.knockouts), len(asked.centres)):
        raise ValueError(f"its probabilities have the shape {after.shape}")
    place = f"question {record.task} {record.doc_id}"
    return asked, AnswerWords(place, one.cluster, words, (after - before) / before * 100)
