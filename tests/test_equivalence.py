"""The exact test of equivalence against enumerations and optimisations that share no code with it."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.stats import multinomial

from lmms_flow.report.equivalence import equivalence, score
from lmms_flow.report.pairing import Paired


def likelihood_score(worse: int, better: int, common: int, margin: float) -> float:
    """Tango's score with the constrained likelihood maximised numerically."""

    def unlikely(share: float) -> float:
        same = 1 - 2 * share - margin
        terms = ((worse, share + margin), (better, share), (common - worse - better, same))
        return -sum(count * math.log(p) for count, p in terms if count)

    found = minimize_scalar(
        unlikely, bounds=(1e-12, (1 - margin) / 2 - 1e-12), method="bounded", options={"xatol": 1e-12}
    )
    deviation = math.sqrt(common * (2 * float(found.x) + margin * (1 - margin)))
    return (common * margin - worse + better) / deviation


CASES = [
    (0, 0, 60, 0.1),
    (5, 2, 60, 0.1),
    (2, 5, 60, 0.1),
    (9, 9, 40, 0.05),
    (30, 22, 500, 0.02),
    (7, 0, 90, 0.3),
]


@pytest.mark.parametrize("case", CASES)
def test_the_score_is_that_of_the_likelihood(case: tuple[int, int, int, float]) -> None:
    worse, better, common, margin = case
    found = score(np.array([worse]), np.array([better]), common, margin)
    assert found[0] == pytest.approx(likelihood_score(*case), abs=1e-4)


def outcomes(common: int) -> np.ndarray:
    """Every (worse, better) that there is, [outcome, 2]."""
    pairs = [(worse, better) for worse in range(common + 1) for better in range(common + 1 - worse)]
    return np.array(pairs)


def chances(common: int, better_share: float, margin: float) -> np.ndarray:
    """The chance of each outcome at the margin, [outcome]."""
    pairs = outcomes(common)
    counts = np.column_stack([pairs, common - pairs.sum(1)])
    flipped = np.array([better_share + margin, better_share])
    return np.asarray(multinomial.pmf(counts, common, [*flipped, max(0.0, 1 - flipped.sum())]))


@pytest.mark.parametrize(("common", "margin"), [(12, 0.2), (18, 0.1)])
def test_p_is_the_greatest_chance_over_all_shares_of_flips(common: int, margin: float) -> None:
    pairs = outcomes(common)
    scores = np.array([likelihood_score(worse, better, common, margin) for worse, better in pairs.tolist()])
    shares = (1 - margin) / 2 * np.sin(np.linspace(0, math.pi / 2, 300)) ** 2
    by_share = np.stack([chances(common, share, margin) for share in shares])  # [share, outcome]
    for (worse, better), seen in zip(pairs[::5], scores[::5], strict=True):
        if worse < better:
            continue
        expected = by_share[:, scores >= seen - 1e-5].sum(1).max()
        assert equivalence(worse, better, common, margin) == pytest.approx(expected, abs=2e-3)


@pytest.mark.parametrize("better_share", [0.0, 0.001, 0.01, 0.05, 0.2, 0.4])
def test_the_size_is_held_whatever_share_of_the_answers_flips(better_share: float) -> None:
    """At the margin itself, "equivalent" is said in 5 % of the cases at most: all outcomes, by their chances."""
    common, margin = 60, 0.1
    pairs = outcomes(common)
    said = np.array([equivalence(worse, better, common, margin) < 0.05 for worse, better in pairs.tolist()])
    assert said.any()
    assert chances(common, better_share, margin)[said].sum() <= 0.05


def test_the_size_is_held_in_a_simulation() -> None:
    """Of 2,000 runs of 588 questions at the margin, with and without answers that flip the other way."""
    rng = np.random.default_rng(0)
    for better_share in (0.0, 0.005):
        drawn = rng.multinomial(588, [better_share + 0.02, better_share, 0.98 - 2 * better_share], size=2000)
        said = np.mean([equivalence(worse, better, 588, 0.02) < 0.05 for worse, better, _ in drawn.tolist()])
        assert 0.01 < said < 0.05 + 2 * math.sqrt(0.05 * 0.95 / 2000)


def test_p_grows_with_each_question_lost_and_with_each_that_flips_at_all() -> None:
    """A t test gives 0.048 for no flip among 150 questions and 0.024 for one."""
    for won in (0, 1, 4):
        p_values = [equivalence(lost, won, 150, 0.02) for lost in range(won, 12)]
        assert p_values == sorted(p_values)
        assert p_values[0] < p_values[1]
    to_and_fro = [equivalence(flips, flips, 294, 0.02) for flips in range(6)]
    assert to_and_fro == sorted(to_and_fro)


def test_lost_and_won_weigh_the_same() -> None:
    assert equivalence(3, 9, 500, 0.02) == equivalence(9, 3, 500, 0.02)


def test_identical_arms_are_equivalent_on_enough_questions() -> None:
    """With three questions nothing is shown: a share of 2 % of flips would most likely not be seen either."""
    assert Paired(common=3, right=2, lost=0, won=0).equivalence(0.02) > 0.9
    assert Paired(common=148, right=90, lost=0, won=0).equivalence(0.02) > 0.05
    assert Paired(common=149, right=90, lost=0, won=0).equivalence(0.02) < 0.05
    assert math.isnan(Paired(common=0, right=0, lost=0, won=0).equivalence(0.02))


def test_every_answer_flipped_is_no_equivalence() -> None:
    assert Paired(common=20, right=20, lost=20, won=0).equivalence(0.02) == pytest.approx(1)


def test_of_many_questions_it_comes_near_to_the_normal_test() -> None:
    """Where many flip, the score's normal p value is near: 2,500 questions, 130 lost and 110 won."""
    seen = likelihood_score(130, 110, 2500, 0.02)
    normal = 0.5 * math.erfc(seen / math.sqrt(2))
    assert equivalence(130, 110, 2500, 0.02) == pytest.approx(normal, rel=0.25)
