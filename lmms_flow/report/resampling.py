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


def effective_clusters(sizes: NDArray[np.int64]) -> float:
    """How many clusters of equal size say as much as these (Kish): few large ones count for little."""
    return float(sizes.sum() ** 2 / (sizes.astype(np.float64) ** 2).sum())


def wider_than_draws(sums: NDArray[np.int64], sizes: NDArray[np.int64]) -> float:
    """By how much an interval of a mean over clusters must be wider than draws of whole clusters are.

    Draws of k clusters vary less than k clusters do, the more so where some are large: what they lack is told by the
    jackknife, which leaves out one cluster at a time. And Student's t is wider than the normal distribution (Hesterberg
    2015, The American Statistician 69; MacKinnon, Nielsen and Webb 2023, Journal of Econometrics 232).

    Args:
        sums: of the values of each cluster, [cluster].
        sizes: questions of each cluster, [cluster].

    Returns:
        A factor of 1 or somewhat more.
    """
    count, total = len(sizes), sizes.sum()
    apart = sums - sizes * (sums.sum() / total)
    drawn = float((apart**2).sum())
    jackknife = (count - 1) / count * float(((apart / (1 - sizes / total)) ** 2).sum())
    lacks = math.sqrt(jackknife / drawn if drawn else count / (count - 1))
    return lacks * float(student.isf(TAIL, effective_clusters(sizes) - 1) / norm.isf(TAIL))


def percentiles(values: NDArray[np.float64], wider: float = 1.0) -> Interval:
    """The middle 95 % of resampled values, [resample]; more of them where the interval has to be `wider`."""
    tail = TAIL if wider == 1 else float(norm.sf(wider * norm.isf(TAIL)))
    low, high = np.percentile(values, [100 * tail, 100 * (1 - tail)])
    return float(low), float(high)
