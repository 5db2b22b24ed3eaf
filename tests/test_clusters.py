"""Means of clustered questions: errors by hand and by statsmodels, intervals that cover, effects that would be seen."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import binom, ttest_1samp
from statsmodels.regression.linear_model import OLS
from statsmodels.stats.sandwich_covariance import cov_cluster

from benchmarks.coverage_of_intervals import board, covered
from lmms_flow.report.clusters import Clustered
from lmms_flow.report.pairing import Paired


def made(seed: int, clusters: int = 40, most: int = 8) -> Clustered:
    draws = np.random.default_rng(seed)
    sizes = draws.integers(1, most + 1, clusters)
    shared = draws.choice([-1.0, 0.0, 1.0], clusters, p=[0.3, 0.6, 0.1])
    own = draws.choice([-1.0, 0.0, 1.0], int(sizes.sum()), p=[0.2, 0.7, 0.1])
    groups = np.repeat(np.arange(clusters), sizes)
    values = np.where(draws.random(len(groups)) < 0.5, shared[groups], own)
    return Clustered.of(values.tolist(), groups.tolist())


def test_errors_equal_statsmodels_and_the_formula() -> None:
    for seed in range(50):
        found = made(seed)
        fitted = OLS(found.values, np.ones(len(found.values))).fit()
        by_statsmodels = math.sqrt(cov_cluster(fitted, found.groups)[0, 0])
        sums = [
            found.values[found.groups == g].sum() - (found.groups == g).sum() * found.mean for g in range(40)
        ]
        by_hand = math.sqrt(40 / 39 * sum(s * s for s in sums)) / len(found.values)
        assert found.error == pytest.approx(by_statsmodels, rel=1e-9)
        assert found.error == pytest.approx(by_hand, rel=1e-9)


def test_questions_of_their_own_are_a_t_interval() -> None:
    values = np.random.default_rng(1).choice([-1.0, 0.0, 1.0], 200)
    found = Clustered.of(values.tolist(), range(200))
    plain = ttest_1samp(values, 0).confidence_interval()
    assert found.interval == pytest.approx((plain.low, plain.high), rel=1e-9)
    assert found.num_clusters == 200


def test_questions_that_say_the_same_count_once() -> None:
    values = np.random.default_rng(2).choice([-1.0, 0.0, 1.0], 60).tolist()
    once = Clustered.of(values, range(60))
    four = Clustered.of([v for v in values for _ in range(4)], [c for c in range(60) for _ in range(4)])
    assert four.interval == pytest.approx(once.interval, rel=1e-9)
    assert four.detectable == pytest.approx(once.detectable, rel=1e-9)


def test_where_nothing_flips_a_change_is_not_excluded() -> None:
    found = Clustered.of([0.0] * 50, range(50))
    low, high = found.interval
    assert high == -low == pytest.approx(1 - 0.025 ** (1 / 50))
    one = Clustered.of([1.0] + [0.0] * 49, range(50))
    assert one.interval[1] - one.mean >= high


def test_one_clip_says_nothing() -> None:
    found = Clustered.of([1.0, 0.0, -1.0], ["clip"] * 3)
    assert all(map(math.isnan, (*found.interval, found.detectable, found.error)))
    assert math.isnan(Clustered.of([], []).mean)


def test_what_would_have_been_shown_is_shown_four_times_of_five() -> None:
    """An effect as large as `detectable` says of a run without one, tried on 400 boards."""
    draws = np.random.default_rng(5)
    null = Clustered.of(draws.choice([-1.0, 0.0, 1.0], 600, p=[0.1, 0.8, 0.1]).tolist(), range(600))
    effect = null.detectable
    shown = 0
    for _ in range(400):
        values = draws.choice([-1.0, 0.0, 1.0], 600, p=[0.1 + effect / 2, 0.8, 0.1 - effect / 2])
        shown += Clustered.of(values.tolist(), range(600)).interval[1] < 0
    assert 0.73 < shown / 400 < 0.87


@pytest.mark.parametrize("questions", [50, 150, 588])
def test_where_nothing_flips_an_effect_must_still_be_large_enough_to_be_shown(questions: int) -> None:
    """McNemar's exact test says so from six answers on that flip one way, the interval from four on."""
    effect = Clustered.of([0.0] * questions, range(questions)).detectable
    assert Paired(questions, questions, 6, 0).p_value < 0.05 < Paired(questions, questions, 5, 0).p_value
    assert 0.7 < binom.sf(5, questions, effect) < 0.9
    shown = [Clustered.of([-1.0] * n + [0.0] * (questions - n), range(questions)) for n in (3, 6)]
    assert shown[0].interval[1] > 0 > shown[1].interval[1]
    one = Clustered.of([-1.0] + [0.0] * (questions - 1), range(questions))
    assert one.detectable == effect


def test_intervals_cover_where_clusters_are_known_and_not_where_they_are_ignored() -> None:
    """A few of the boards of benchmarks/coverage_of_intervals.py, whose table has 2,000 of each kind."""
    draws = np.random.default_rng(0)
    boards = [board(draws, clips=120, effect=-0.05, shared=0.65) for _ in range(300)]
    known, ignored = (sum(covered(b, clustered=c) for b in boards) / 300 for c in (True, False))
    assert 0.91 < known < 0.98
    assert ignored < 0.9
