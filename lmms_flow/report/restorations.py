"""Reads the restorations of runs: which edges, given back in the clip played backwards, bring the answer back.

for each in read_restorations("out"):
    curve = each.curve("cross_frame", among="right")
    print(each.benchmark, curve.layers, curve.mean, each.lost(among="right"))
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import FlowError, nearest
from ..records.arrays import Arrays
from ..trace.curves import RESAMPLES, Among, AskedAlike, Curve, mean_by_clip
from .alike import collected, in_windows
from .maps import is_right
from .traces import Folders, Traced, read_traces

PROBABILITY = "restoration.probability"


@dataclass(frozen=True, eq=False)
class RestoredSample:
    """The restoration of one question.

    `clean` and `corrupt` are the probability of the clean run's answer in the two runs, `probability`
    [knockout, centre] the same with the edges given back. `right`: whether that answer is the right letter; None where
    that is not known. `place` tells the question, `clip` its video: equal for questions about one.
    """

    place: str
    clip: str
    clean: float
    corrupt: float
    probability: NDArray[np.float64]
    right: bool | None


@dataclass(frozen=True, eq=False, repr=False)
class Restoration(AskedAlike):
    """The restorations of questions that were asked alike."""

    samples: tuple[RestoredSample, ...]

    def among(self, which: Among) -> tuple[RestoredSample, ...]:
        """The questions that the clean run answers right, or wrong, alone; or all."""
        if which not in ("all", "right", "wrong"):
            raise FlowError(f"questions are all, right or wrong, not {which!r}")
        return tuple(one for one in self.samples if which == "all" or one.right is (which == "right"))

    def curve(
        self, knockout: str, *, among: Among = "right", seed: int = 0, resamples: int = RESAMPLES
    ) -> Curve:
        """What the edges bring back: the mean of 100 (p_restored - p_corrupt), in percentage points.

        Args:
            knockout: one of `knockouts`.
            among: which questions, by the clean run's answer.
            seed: of the bootstrap.
            resamples: of the clips.

        Raises:
            FlowError: there is no such knockout.
        """
        if knockout not in self.knockouts:
            raise FlowError(
                f"the restoration has no knockout {knockout!r}{nearest(knockout, self.knockouts)} (knockouts: "
                f"{', '.join(self.knockouts)})"
            )
        place, samples = self.knockouts.index(knockout), self.among(among)
        values = np.array([100 * (one.probability[place] - one.corrupt) for one in samples])
        values = values.reshape(len(samples), len(self.centres))
        clips = [one.clip or one.place for one in samples]
        mean, low, high = mean_by_clip(values, clips, seed=seed, resamples=resamples)
        return Curve(knockout, self.centres, mean, low, high, len(samples), len(set(clips)))

    def lost(self, among: Among = "right") -> float:
        """What there is to be brought back: the mean of 100 (p_clean - p_corrupt); nan without a question."""
        samples = self.among(among)
        return (
            float(np.mean([100 * (one.clean - one.corrupt) for one in samples])) if samples else float("nan")
        )


def read_restorations(folders: str | Path | Folders, records: Folders = ()) -> list[Restoration]:
    """The restorations in lmms-eval's output folders, or in folders of records; see `read_traces`.

    One for each checkpoint, benchmark, number of frames, protocol, set of knockouts and kind of window, in this order.
    Raises ReportError where something can't be read; a folder without a restoration gives none.
    """
    return restorations_of(read_traces(folders, records))


def restorations_of(traced: Sequence[Traced]) -> list[Restoration]:
    """The restorations among traced samples. Raises ReportError where the arrays of one can't be read."""
    return collected(traced, PROBABILITY, "restoration", _read)


def _read(one: Traced, arrays: Arrays) -> tuple[Restoration, RestoredSample]:
    asked = Restoration(**in_windows(one, arrays.about))
    return asked, _sample(one, arrays, (len(asked.knockouts), len(asked.centres)))


def _sample(one: Traced, arrays: Arrays, grid: tuple[int, int]) -> RestoredSample:
    values, about = arrays.values, arrays.about
    true = about["true_letter"]
    probability = values[PROBABILITY].astype(np.float64)
    if probability.shape != grid:
        raise ValueError(f"its probabilities have the shape {probability.shape}")
    return RestoredSample(
        place=f"question {one.record.task} {one.record.doc_id}",
        clip=one.cluster,
        clean=float(values["restoration.clean"][0]),
        corrupt=float(values["restoration.corrupt"][0]),
        probability=probability,
        right=None if true is None else is_right(one.record, str(about["answer"]), about, true),
    )
