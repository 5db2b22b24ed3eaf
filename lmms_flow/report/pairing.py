"""Two arms on the questions that both answered: the difference, its interval, and tests of it, by video.

Where every question has a video of its own, p is McNemar's of statsmodels, and the interval is the bootstrap over
questions. To draw n questions with replacement and to count what was lost and won is one draw from a multinomial
distribution, so the counts are drawn themselves: the same distribution, and no question is touched.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from statsmodels.stats.contingency_tables import mcnemar

from .arms import Arm, ScoredSample
from .clusters import Clustered
from .equivalence import equivalence
from .resampling import Interval, drawn_by_cluster, percentiles, wider_than_draws
from .sign_flips import sign_flips
from .statistics import NOTHING, RESAMPLES, wider_for_few


@dataclass(frozen=True)
class Paired:
    """An arm against its baseline on the questions that both answered.

    `by_video` says of each video how many questions about it were lost, won and asked; it is empty where every question
    has a video of its own.
    """

    common: int
    right: int  # of the baseline, among them
    lost: int  # right in the baseline, wrong here
    won: int  # the other way round
    by_video: tuple[tuple[int, int, int], ...] = ()

    @property
    def num_clusters(self) -> int:
        """How many videos the questions are about."""
        return len(self.by_video) or self.common

    @property
    def difference(self) -> float:
        """The change of the share: what was won less what was lost, of the common questions."""
        return (self.won - self.lost) / self.common if self.common else math.nan

    @cached_property
    def change(self) -> Clustered:
        """The change of each question, -1, 0 or 1, in its cluster: its error is cluster-robust."""
        videos = self.by_video or (
            *((1, 0, 1),) * self.lost,
            *((0, 1, 1),) * self.won,
            *((0, 0, 1),) * (self.common - self.lost - self.won),
        )
        lost, won, asked = np.array(videos, dtype=np.int64).reshape(-1, 3).T
        counts = np.column_stack([lost, won, asked - lost - won]).ravel()
        values = np.repeat(np.tile([-1.0, 1.0, 0.0], len(videos)), counts)
        return Clustered(values, np.repeat(np.arange(len(videos)), asked))

    @property
    def detectable(self) -> float:
        """The smallest change that so many questions, varying so much, would have shown four times of five."""
        return self.change.detectable

    @property
    def p_value(self) -> float:
        """The exact test that as much is lost as is won, by video (McNemar's); 1 where no question flipped."""
        if self.by_video:
            return sign_flips(won - lost for lost, won, _ in self.by_video)
        if not self.lost + self.won:
            return 1.0
        return float(mcnemar([[0, self.lost], [self.won, 0]], exact=True).pvalue)

    @property
    def change_among_right(self) -> float:
        """The change on the questions that the baseline answered right, as the paper's Table 2 has it."""
        return -self.lost / self.right if self.right else math.nan

    def interval(self, seed: int = 0, resamples: int = RESAMPLES) -> Interval:
        """Of the difference: the 95 % percentile bootstrap over the videos of the common questions."""
        if not self.common:
            return NOTHING
        if self.by_video:
            if self.num_clusters < 2:
                return -1.0, 1.0
            videos = np.array(self.by_video, dtype=np.int64)
            counts = drawn_by_cluster(videos, resamples, seed)
            wider = wider_than_draws(videos[:, 1] - videos[:, 0], videos[:, 2])
            return percentiles((counts[:, 1] - counts[:, 0]) / counts[:, 2], wider)
        shares = [self.won / self.common, self.lost / self.common, 0.0]
        shares[2] = max(0.0, 1 - shares[0] - shares[1])
        drawn = np.random.default_rng(seed).multinomial(self.common, shares, size=resamples)
        return percentiles((drawn[:, 0] - drawn[:, 1]) / self.common)

    @property
    def design(self) -> float:
        """The design effect: by how much the difference varies more than that of independent questions.

        Between 1 and what it would be if the questions about a video always changed together; that where none changed.
        """
        if not self.by_video:
            return 1.0
        sizes = np.array([asked for _, _, asked in self.by_video], dtype=np.float64)
        most = float((sizes**2).sum() / sizes.sum())
        alone = self.change.values.var() / self.common
        return min(max(1.0, self.change.error**2 / alone), most) if alone else most

    def equivalence(self, margin: float) -> float:
        """The p value of two one-sided tests that the difference lies outside of -margin to +margin (TOST, exact).

        Of questions that share videos the counts are divided by the design effect first (Rao and Scott 1992).
        """
        if not self.by_video:
            return equivalence(self.lost, self.won, self.common, margin)
        if self.num_clusters < 2:
            return 1.0
        design = self.design * wider_for_few(self.num_clusters, 0.05)
        return equivalence(self.lost, self.won, self.common, margin, design)


def both_answered(
    arm: Arm, baseline: Arm, subtask: str | None = None
) -> list[tuple[ScoredSample, ScoredSample]]:
    """The questions of one sub-task, or of all, that both arms answered: the arm's sample and the baseline's."""
    found = []
    for sample in arm.answered(subtask):
        other = baseline.samples.get((sample.task, sample.doc_id))
        if other is not None and other.correct is not None:
            found.append((sample, other))
    return found


def paired(arm: Arm, baseline: Arm, subtask: str | None = None) -> Paired:
    """An arm against its baseline, on one sub-task or on all."""
    return paired_answers(
        (bool(other.correct), bool(sample.correct), sample.cluster)
        for sample, other in both_answered(arm, baseline, subtask)
    )


def paired_answers(answers: Iterable[tuple[bool, bool, Hashable]]) -> Paired:
    """From whether each was right before, whether it is right after, and the video that it is about."""
    right = lost = won = 0
    videos: dict[Hashable, list[int]] = {}
    for before, after, video in answers:
        right += before
        counts = videos.setdefault(video, [0, 0, 0])
        counts[0] += before and not after
        counts[1] += after and not before
        counts[2] += 1
    lost, won, common = (
        (sum(column) for column in zip(*videos.values(), strict=True)) if videos else (0, 0, 0)
    )
    shared = common > len(videos)
    by_video = tuple(sorted((lost, won, asked) for lost, won, asked in videos.values())) if shared else ()
    return Paired(common, right, lost, won, by_video)
