"""Whether two arms are equivalent on the same questions: an exact test for the difference of two paired shares.

The statistic is the score of Tango (1998, Statistics in Medicine 17): the distance of the difference from the margin,
over its standard error if the difference were the margin. So it is defined where few answers flip or none, and falls
with each question lost. Its p value is no normal one, but exact as in Hsueh, Liu and Chen (2001, Biometrics 57): the
chance of a score as high as this, for that share of flips by which it is highest.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import bdtr, gammaln, xlog1py, xlogy

GRID = 120  # shares of flips that are looked at before the highest place is narrowed down
_DEVIATIONS = 9.0  # of the number of flips, around its mean; what lies outside is below 1e-15
_ROUNDING = 1e-9  # scores that differ by less are the same


def equivalence(lost: int, won: int, common: int, margin: float, design: float = 1.0) -> float:
    """The p value of two one-sided tests that |won - lost| is at least `margin` of the questions.

    By symmetry both have the same distribution, so that the greater p value is that of the lower score.

    Args:
        lost: questions that the baseline alone answers right.
        won: questions that the arm alone answers right.
        common: questions that both answered.
        margin: the least difference that counts, as a share above 0 and below 1.
        design: the design effect of questions that come in clusters. All counts are divided by it, so that they are
            those of as many independent questions as say as much (Rao and Scott 1992, Biometrics 48).

    Returns:
        The p value; nan of no question.
    """
    if not common:
        return math.nan
    effective = int(common / design)
    if not effective:
        return 1.0
    worse = min(max(lost, won) / design, effective)
    return _one_sided(worse, min(lost, won) / design, effective, margin)


def score(worse: np.ndarray, better: np.ndarray, common: int, margin: float) -> np.ndarray:
    """How far (worse - better) / common lies below the margin, in standard errors at the margin.

    Args:
        worse: numbers of questions that flipped towards the margin, [case].
        better: numbers of those that flipped the other way, [case].
        common: questions in all.
        margin: as a share.

    Returns:
        The scores, [case]: the higher, the clearer it is that the difference lies below the margin.
    """
    # The likeliest share of `better`, given that `worse` exceeds it by the margin, solves a quadratic equation.
    linear = (2 * common - worse + better) * margin - worse - better
    constant = -better * margin * (1 - margin)
    share = (np.sqrt(linear**2 - 8 * common * constant) - linear) / (4 * common)
    deviation = np.sqrt(common * (2 * share + margin * (1 - margin)))
    found: np.ndarray = (common * margin - (worse - better)) / deviation
    return found


@lru_cache(maxsize=4096)
def _one_sided(worse: float, better: float, common: int, margin: float) -> float:
    seen = float(score(np.array([float(worse)]), np.array([float(better)]), common, margin)[0])
    most = _most_worse(seen, common, margin)

    def chance(better_share: float) -> float:
        return _chance(most, better_share, common, margin)

    highest = (1 - margin) / 2  # share of `better`: both flips together are at most all questions
    shares = highest * np.sin(np.linspace(0, math.pi / 2, GRID + 1)) ** 2  # closer at both ends
    chances = [chance(share) for share in shares]
    top = int(np.argmax(chances))
    around = (shares[max(top - 1, 0)], shares[min(top + 1, GRID)])
    narrowed = minimize_scalar(lambda share: -chance(share), bounds=around, method="bounded")
    return float(min(1.0, max(chances[top], -narrowed.fun)))


def _most_worse(seen: float, common: int, margin: float) -> np.ndarray:
    """Of each number of flips, how many may be `worse` for a score of `seen` or higher, [flips]; -1: none.

    The score falls with `worse`, so that halving finds it.
    """
    flips = np.arange(common + 1)
    low, high = np.full(common + 1, -1), flips.copy()
    while (low < high).any():
        middle = (low + high + 1) // 2
        reached = score(middle, flips - middle, common, margin) >= seen - _ROUNDING
        low, high = np.where(reached, middle, low), np.where(reached, high, middle - 1)
    return low


def _chance(most: np.ndarray, better_share: float, common: int, margin: float) -> float:
    """The chance of a score so high where `better` has this share and `worse` the margin more."""
    share = 2 * better_share + margin
    reach = _DEVIATIONS * math.sqrt(common * share * (1 - share)) + _DEVIATIONS**2
    middle = common * share
    first, last = max(0, math.floor(middle - reach)), min(common, math.ceil(middle + reach))
    flips = np.arange(first, last + 1)
    most = most[first : last + 1]
    ways = gammaln(common + 1) - gammaln(flips + 1) - gammaln(common - flips + 1)
    chances = np.exp(ways + xlogy(flips, share) + xlog1py(common - flips, -share))
    within = np.where(most < 0, 0.0, bdtr(np.maximum(most, 0), flips, (better_share + margin) / share))
    return float(chances @ within)
