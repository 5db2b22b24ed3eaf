"""A mean over questions that come in clusters: several about one clip are no independent samples.

Errors are cluster-robust (statsmodels' sandwich with its correction for few clusters), intervals are Student's t on as
many degrees of freedom as there are clusters, less one. Where every cluster is one question this is the plain t
interval of the mean.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student
from statsmodels.regression.linear_model import OLS

LEVEL = 0.95
POWER = 0.8  # with which the smallest detectable effect would have been found


@dataclass(frozen=True, eq=False)
class Clustered:
    """Values of questions, and which of them belong together.

    Args:
        values: one a question, between -1 and 1, such as right now less right before, [question].
        groups: the number of each question's cluster, [question].
    """

    values: NDArray[np.float64]
    groups: NDArray[np.int64]

    @classmethod
    def of(cls, values: Sequence[float], clusters: Sequence[Hashable]) -> Clustered:
        """From a value and the cluster of each question."""
        number = {cluster: place for place, cluster in enumerate(dict.fromkeys(clusters))}
        return cls(
            np.asarray(values, dtype=np.float64),
            np.array([number[cluster] for cluster in clusters], dtype=np.int64),
        )

    @property
    def num_clusters(self) -> int:
        """How many there are."""
        return int(self.groups.max()) + 1 if len(self.groups) else 0

    @property
    def mean(self) -> float:
        """Over the questions, each counting the same; nan of none."""
        return float(self.values.mean()) if len(self.values) else math.nan

    @cached_property
    def error(self) -> float:
        """The cluster-robust standard error of the mean; nan of fewer than two clusters."""
        if self.num_clusters < 2:
            return math.nan
        fitted = OLS(self.values, np.ones(len(self.values))).fit(
            cov_type="cluster", cov_kwds={"groups": self.groups}
        )
        return float(fitted.bse[0])

    @property
    def _floor(self) -> float:
        """How far a mean may lie from what was seen where nothing varies: a cluster that differs was not met yet."""
        return float(1 - ((1 - LEVEL) / 2) ** (1 / self.num_clusters))

    @property
    def interval(self) -> tuple[float, float]:
        """Of the mean, at 95 %; never narrower than it would be if no question differed."""
        if self.num_clusters < 2:
            return math.nan, math.nan
        wide = float(student.ppf((1 + LEVEL) / 2, self.num_clusters - 1)) * self.error
        half = max(wide, self._floor)
        return max(-1.0, self.mean - half), min(1.0, self.mean + half)

    @property
    def detectable(self) -> float:
        """The smallest effect that so many questions, varying so much, would have shown four times of five.

        An effect varies itself: one of a share d, all in one direction, by d (1 - d) at least. So where next to nothing
        varied the error that was seen is not what an effect would have had to stand out from.
        """
        if self.num_clusters < 2:
            return math.nan
        freedom = self.num_clusters - 1
        reach = float(student.ppf((1 + LEVEL) / 2, freedom) + student.ppf(POWER, freedom))
        of_its_own = reach**2 / (
            self.num_clusters + reach**2
        )  # solves d = reach * sqrt(d * (1 - d) / clusters)
        return min(1.0, max(reach * self.error, of_its_own))
