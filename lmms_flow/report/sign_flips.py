"""The exact test of no change at all on questions that come in clusters: the arms change places within whole clusters.

If nothing changed, each video's answers might as well have come from the other arm, which turns the sign of the sum of
its changes. So p is the share of all ways to give the sums their signs by which the total is as far from nothing as the
one that was seen. Where every question has a video of its own these are McNemar's sums, and it is his exact test.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import numpy as np
from scipy.stats import binom

_ROUNDING = 1e-12  # of p


def sign_flips(sums: Iterable[int]) -> float:
    """The two-sided p value that all changes are as likely the other way round.

    Args:
        sums: of each cluster, questions won less questions lost.

    Returns:
        The p value, counted over all signs; 1 where nothing changed.
    """
    changed = [value for value in sums if value]
    reach, seen = sum(map(abs, changed)), abs(sum(changed))
    # Of the sums of one size so many are positive; `ways` [positive total] is the distribution over all sizes.
    ways = np.ones(1)
    for size, count in Counter(map(abs, changed)).items():
        spread = np.zeros(size * count + 1)
        spread[::size] = binom.pmf(np.arange(count + 1), count, 0.5)
        ways = np.convolve(ways, spread)
    totals = 2 * np.arange(reach + 1) - reach
    p = float(ways[np.abs(totals) >= seen].sum())
    return 1.0 if p > 1 - _ROUNDING else p
