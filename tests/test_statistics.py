"""The report's statistics against statsmodels, scipy and cases worked by hand."""

from __future__ import annotations

import inspect
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import bootstrap
from statsmodels.stats.multitest import multipletests

from lmms_flow.report.pairing import Paired, paired
from lmms_flow.report.runs import read_arms
from lmms_flow.report.statistics import Accuracy, accuracy, holm, macro, share
from tests.support.lmms_logs import write_log


def test_accuracy_with_its_error_and_wilsons_interval() -> None:
    score = Accuracy(8, 10)
    assert score.error == pytest.approx(0.126491, abs=1e-6)
    assert score.interval == pytest.approx((0.490162, 0.943318), abs=1e-6)  # Wilson (1927) for 8 of 10
    assert math.isnan(Accuracy(0, 0).value)


def test_paired_difference_is_mcnemars_exact_test(tmp_path: Path) -> None:
    write_log(tmp_path / "a", "none", [True] * 10 + [False] * 2)
    write_log(tmp_path / "b", "blind", [True] * 4 + [False] * 6 + [True, False])
    baseline, arm = read_arms([tmp_path])
    test = paired(arm, baseline)
    assert (test.common, test.right, test.lost, test.won) == (12, 10, 6, 1)
    assert test.difference == pytest.approx(-5 / 12)
    assert test.p_value == pytest.approx(2 * (1 + 7) / 2**7)  # two-sided binomial, 1 of 7 or fewer
    assert test.change_among_right == pytest.approx(-0.6)  # the paper's Table 2: 6 of 10 are lost


def test_identical_arms_differ_by_exactly_nothing(tmp_path: Path) -> None:
    write_log(tmp_path / "a", "none", [True, False, True])
    write_log(tmp_path / "b", "sham", [True, False, True])
    baseline, sham = read_arms([tmp_path])
    test = paired(sham, baseline)
    assert (test.difference, test.p_value, test.interval(), test.change_among_right) == (0, 1, (0, 0), 0)


def seeded() -> dict[str, Any]:
    """The seed of scipy's bootstrap, which has another name since 1.15."""
    name = "rng" if "rng" in inspect.signature(bootstrap).parameters else "random_state"
    return {name: np.random.default_rng(1)}


@pytest.mark.parametrize(("common", "lost", "won"), [(40, 9, 3), (400, 30, 22), (1000, 60, 10)])
def test_the_interval_is_scipys_percentile_bootstrap(common: int, lost: int, won: int) -> None:
    differences = np.repeat([-1.0, 1.0, 0.0], [lost, won, common - lost - won])
    expected = bootstrap(
        (differences,),
        np.mean,
        n_resamples=9999,
        batch=500,
        method="percentile",
        **seeded(),
    ).confidence_interval
    found = Paired(common, common // 2, lost, won).interval(seed=2)
    error = differences.std() / math.sqrt(common)
    assert found == pytest.approx((expected.low, expected.high), abs=max(0.06 * error, 1.01 / common))


def test_the_interval_is_seeded() -> None:
    test = Paired(common=997, right=600, lost=83, won=41)
    assert test.interval(seed=3) == test.interval(seed=3)
    few = [test.interval(seed=seed, resamples=50) for seed in (1, 2)]
    assert few[0] != few[1]


def test_macro_mean_weighs_sub_tasks_the_same_and_draws_within_them() -> None:
    parts = [Accuracy(90, 100), Accuracy(5, 10), Accuracy(0, 0)]
    mean = macro(parts, seed=1)
    assert mean.value == pytest.approx(0.7)  # the empty one is no sub-task
    answers = [np.repeat([1.0, 0.0], [part.right, part.total - part.right]) for part in parts[:2]]
    expected = bootstrap(
        answers,
        lambda a, b, axis=-1: (a.mean(axis) + b.mean(axis)) / 2,
        n_resamples=9999,
        method="percentile",
        **seeded(),
    ).confidence_interval
    assert mean.interval == pytest.approx((expected.low, expected.high), abs=0.012)
    assert macro([Accuracy(7, 7)]).interval == (1, 1)


def test_holm_is_statsmodels_and_leaves_out_what_was_not_tested() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])  # by hand: 3p, 2p, p, never falling
    p_values = [0.2, 0.001, 0.04, 0.012]
    assert holm(p_values) == pytest.approx(list(multipletests(p_values, method="holm")[1]))
    with_gap = holm([0.01, math.nan, 0.04])
    assert with_gap[0] == pytest.approx(0.02)
    assert math.isnan(with_gap[1])
    assert holm([]) == []


def test_a_planted_drop_of_five_points_is_found(tmp_path: Path) -> None:
    """Over 1,000 questions, 80 lost and 30 won: found, not equivalent, and zero is outside of the interval."""
    before = [True] * 600 + [False] * 400
    after = [False] * 80 + [True] * 520 + [True] * 30 + [False] * 370
    write_log(tmp_path / "a", "none", before)
    write_log(tmp_path / "b", "cross_frame", after)
    baseline, arm = read_arms([tmp_path])
    test = paired(arm, baseline)
    low, high = test.interval()
    assert test.difference == pytest.approx(-0.05)
    assert test.p_value < 1e-5
    assert -0.08 < low < -0.05 < high < -0.02
    assert test.equivalence(0.02) > 0.9
    assert accuracy(arm).value == pytest.approx(0.55)


def test_a_share_of_questions_about_one_video_is_as_one_answer() -> None:
    """Nothing says how alike answers about one video are: they count as the same."""
    one = share([True, False, True, True], ["a"] * 4)
    assert (one.right, one.total, one.videos, one.design) == (3, 4, 1, 4.0)
    alike = share([True] * 6, ["a", "a", "a", "b", "b", "c"])
    assert alike.videos == 3
    assert alike.design == pytest.approx((9 + 4 + 1) / 6)
    apart = share([True, False, True], ["a", "b", "c"])
    assert (apart.videos, apart.design) == (None, 1.0)
