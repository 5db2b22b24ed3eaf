"""The bootstrap over videos: whole clusters of questions are drawn, and nothing is drawn one by one.

Clusters that look the same (as many questions, as many of them right) are one kind, and drawing k clusters with
replacement is one draw from a multinomial distribution over the kinds.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm
from scipy.stats import t as student

Interval = tuple[float, float]
TAIL = 0.025


def drawn_by_cluster(
    clusters: NDArray[np.int64], resamples: int, seed: int, at_once: int = 1000
) -> NDArray[np.int64]:
    """Sums over as many clusters as there are, drawn with replacement.

    Args:
        clusters: [cluster, quantity], such as how many questions of each were won and lost.
        resamples: how many draws.
        seed: of the draws.
        at_once: draws that are held in memory together.

    Returns:
        The sums, [resample, quantity].
    """
    kinds, counts = np.unique(clusters, axis=0, return_counts=True)
    generator, chances = np.random.default_rng(seed), counts / counts.sum()
    parts = [
        generator.multinomial(len(clusters), chances, size=min(at_once, resamples - start)) @ kinds
        for start in range(0, resamples, at_once)
    ]
    return np.concatenate(parts)


def percentiles(values: NDArray[np.float64], clusters: int | None = None) -> Interval:
    """The middle 95 % of resampled values.

    Args:
        values: [resample].
        clusters: how many were drawn. The tails are then taken further out, as Student's t is wider than the normal
            distribution and as k clusters vary by k / (k - 1) more than their draws do (Hesterberg 2015, The American
            Statistician 69): percentiles of few clusters are too narrow.
    """
    tail = TAIL
    if clusters is not None:
        wider = float(student.isf(TAIL, clusters - 1)) * math.sqrt(clusters / (clusters - 1))
        tail = float(norm.sf(wider))
    low, high = np.percentile(values, [100 * tail, 100 * (1 - tail)])
    return float(low), float(high)
