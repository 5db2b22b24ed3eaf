"""Questions that share a video: who shares one, and what becomes of every interval and test."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import norm
from scipy.stats import t as student
from statsmodels.regression.linear_model import OLS
from statsmodels.stats.proportion import proportion_confint
from statsmodels.stats.sandwich_covariance import cov_cluster

from benchmarks.coverage_of_boards import board as made_board
from lmms_flow.harness.sample import video_key_of
from lmms_flow.records.arrays import Arrays
from lmms_flow.records.record import SampleRecord
from lmms_flow.report.answer_words import words_in
from lmms_flow.report.arms import Arm, ScoredSample
from lmms_flow.report.board import Board, Settings, make_boards
from lmms_flow.report.board_tables import all_tables
from lmms_flow.report.clusters import Clustered
from lmms_flow.report.equivalence import equivalence
from lmms_flow.report.page.gathered import gather
from lmms_flow.report.pairing import Paired, paired, paired_answers
from lmms_flow.report.resampling import drawn_by_cluster, wider_than_draws
from lmms_flow.report.runs import read_arms
from lmms_flow.report.same_video import Marks, videos_of
from lmms_flow.report.sign_flips import sign_flips
from lmms_flow.report.simultaneous import Change, simultaneous
from lmms_flow.report.statistics import Accuracy, accuracy, macro_by_video, share
from lmms_flow.report.temporal import both_right, both_right_change
from lmms_flow.report.traces import Traced
from tests.support.lmms_logs import record, write_log


def arm(flow: str, right: Sequence[bool | None], a_video: int = 1, *, tasks: int = 1) -> Arm:
    """Answers to questions of which `a_video` follow one another about one video."""
    made = Arm("tiny", flow, flow, "dense", 8)
    for number, correct in enumerate(right):
        task = f"b_{number % tasks}"
        made.samples[task, number] = ScoredSample(
            task, number, correct, "ok" if correct is not None else "error", clip=f"clip {number // a_video}"
        )
    return made


def answers(seed: int, count: int, share_right: float) -> list[bool]:
    return (np.random.default_rng(seed).random(count) < share_right).tolist()


def board_of(*arms: Arm) -> Board:
    (made,) = make_boards(list(arms), Settings(resamples=2000))
    return made


# Who shares a video


def test_questions_belong_together_by_the_file_or_by_the_documents_own_key() -> None:
    asked = [
        Marks("b_x", 0, "file 1", "long"),
        Marks("b_x", 1, "file 2", "long"),  # two files cut out of one video
        Marks("b_y", 2, "file 2", "other name"),  # and one of these files again under another name
        Marks("b_x", 3, "file 3", "short"),
        Marks("b_x", 4),
        Marks("c_x", 0, "file 4", "long"),  # another benchmark's video of that name
    ]
    names = videos_of(asked)
    assert names[0] == names[1] == names[2]
    assert len(set(names)) == 4
    assert videos_of([replace(one, video_key="") for one in asked[:2]]) == ["file 1", "file 2"]
    assert (
        videos_of([Marks("b_x", 0), Marks("b_x", 1)])[0] != videos_of([Marks("b_x", 0), Marks("b_x", 1)])[1]
    )


@pytest.mark.parametrize(
    ("doc", "expected"),
    [
        ({"video_id": "v1", "video": "a.mp4"}, "v1"),
        ({"videoID": "abc"}, "abc"),
        ({"video_idx": 7}, "7"),
        ({"video_name": " v "}, "v"),
        ({"video_id": "", "youtube_id": "y"}, "y"),
        ({"video": "a.mp4", "video_id": None}, ""),
        ({"video_id": True}, ""),
        ("text", ""),
    ],
)
def test_the_documents_own_key(doc: object, expected: str) -> None:
    assert video_key_of(doc) == expected


def test_a_log_knows_the_key_of_its_records(tmp_path: Path) -> None:
    """Also of an arm whose sample failed before its file was known."""
    for number in range(6):
        task, clip = f"b_{number}", f"file {number}"
        write_log(tmp_path / task, "none", [True], task=task, clip=clip, video_key=f"v{number // 3}")
        write_log(tmp_path / task / "cut", "blind", [number % 2 == 0], task=task, clip=clip)
    full, blind = read_arms([tmp_path])
    assert accuracy(full).num_clusters == accuracy(blind).num_clusters == 2
    assert paired(blind, full).by_video == ((1, 0, 3), (2, 0, 3))


# Where no two questions share one, everything is as it was


def test_without_shared_videos_nothing_changes() -> None:
    one, other = arm("blind", answers(1, 300, 0.5)), arm("none", answers(2, 300, 0.7))
    found = paired(one, other)
    plain = Paired(found.common, found.right, found.lost, found.won)
    assert found == plain
    assert found.num_clusters == 300
    assert accuracy(one) == Accuracy(accuracy(one).right, 300)
    single = replace(found, by_video=tuple(plain_videos(found)))
    assert single.p_value == pytest.approx(plain.p_value, rel=1e-9)
    assert single.change.error == pytest.approx(plain.change.error, rel=1e-12)
    assert single.detectable == pytest.approx(plain.detectable, rel=1e-12)
    assert single.design == 1
    assert single.interval(resamples=4000) == pytest.approx(plain.interval(resamples=4000), abs=0.01)


def plain_videos(test: Paired) -> list[tuple[int, int, int]]:
    same = test.common - test.lost - test.won
    return [(1, 0, 1)] * test.lost + [(0, 1, 1)] * test.won + [(0, 0, 1)] * same


# Errors, intervals, tests


def clustered_pair(seed: int = 3, videos: int = 60, a_video: int = 4) -> tuple[Arm, Arm]:
    draws = np.random.default_rng(seed)
    before = np.repeat(draws.random(videos) < 0.7, a_video) ^ (draws.random(videos * a_video) < 0.1)
    after = before ^ np.repeat(draws.random(videos) < 0.15, a_video)
    return arm("blind", after.tolist(), a_video), arm("none", before.tolist(), a_video)


def test_errors_are_statsmodels_cluster_robust_ones() -> None:
    for seed in range(20):
        one, other = clustered_pair(seed)
        found = paired(one, other)
        samples = [(sample, other.samples[place]) for place, sample in one.samples.items()]
        values = np.array([float(bool(a.correct)) - float(bool(b.correct)) for a, b in samples])
        groups = np.array([int(a.clip.split()[1]) for a, _ in samples])
        fitted = OLS(values, np.ones(len(values))).fit()
        assert found.change.error == pytest.approx(math.sqrt(cov_cluster(fitted, groups)[0, 0]), rel=1e-9)
        right = np.array([float(bool(a.correct)) for a, _ in samples])
        fitted = OLS(right, np.ones(len(right))).fit()
        assert accuracy(one).error == pytest.approx(math.sqrt(cov_cluster(fitted, groups)[0, 0]), rel=1e-9)


def test_questions_that_say_the_same_count_once() -> None:
    """Four copies of every answer make no interval narrower and no p value smaller."""
    before, after = answers(5, 80, 0.7), answers(6, 80, 0.55)
    once = paired(arm("blind", after), arm("none", before))
    fourfold = [[value for value in values for _ in range(4)] for values in (after, before)]
    copied = paired(arm("blind", fourfold[0], 4), arm("none", fourfold[1], 4))
    assert (copied.common, copied.num_clusters) == (320, 80)
    assert copied.p_value == pytest.approx(once.p_value, rel=1e-9)
    assert copied.design == pytest.approx(4, rel=0.02)
    assert copied.detectable == pytest.approx(once.detectable, rel=1e-9)
    assert copied.equivalence(0.1) >= once.equivalence(0.1) * 0.9
    low, high = once.interval()
    assert copied.interval()[0] <= low + 0.01
    assert copied.interval()[1] >= high - 0.01
    wilson = accuracy(arm("blind", after)).interval
    clustered = accuracy(arm("blind", fourfold[0], 4)).interval
    assert clustered[0] <= wilson[0] + 1e-9
    assert clustered[1] >= wilson[1] - 1e-9


def test_wilsons_interval_is_that_of_the_effective_number() -> None:
    score = Accuracy(300, 400, videos=5000, design=2.5)  # so many that Student's t is the normal distribution
    assert score.interval == pytest.approx(proportion_confint(120, 160, method="wilson"), rel=1e-3)
    assert Accuracy(3, 4, videos=1, design=4).interval == (0.0, 1.0)
    assert math.isnan(Accuracy(3, 4, videos=1, design=4).error)
    none_wrong = share([True] * 12, [number // 3 for number in range(12)])
    assert none_wrong.design == 3  # as if those about one video were the same
    assert none_wrong.interval[0] < proportion_confint(4, 4, method="wilson")[0] + 1e-9


def test_sign_flips_count_all_ways_to_sign_the_sums() -> None:
    for sums in ([2, -1, 3, 1], [1, 1, 1, -1, 1], [4], [2, 2, -2], [0, 0], [3, -3]):
        signed = [sum(map(np.multiply, signs, sums)) for signs in product((1, -1), repeat=len(sums))]
        expected = np.mean([abs(total) >= abs(sum(sums)) for total in signed])
        assert sign_flips(sums) == pytest.approx(float(expected))
    assert sign_flips([]) == 1.0
    assert sign_flips([-1] * 9 + [1] * 3) == pytest.approx(Paired(50, 30, 9, 3).p_value, rel=1e-9)


def test_a_few_videos_are_no_evidence_however_many_questions_they_have() -> None:
    before, after = [True] * 200, [False] * 100 + [True] * 100
    found = paired(arm("blind", after, 50), arm("none", before, 50))
    assert found.num_clusters == 4
    assert found.p_value == 0.5  # two videos changed: both signs of both
    assert Paired(200, 200, 100, 0).p_value < 1e-20
    assert found.interval()[1] > -0.1
    one_video = paired(arm("blind", after, 200), arm("none", before, 200))
    assert one_video.interval() == (-1.0, 1.0)
    assert (one_video.p_value, one_video.equivalence(0.02)) == (1.0, 1.0)
    assert math.isnan(one_video.detectable)


def test_equivalence_divides_the_counts_by_the_design_effect() -> None:
    assert equivalence(8, 4, 1000, 0.02, 4.0) == pytest.approx(equivalence(2, 1, 250, 0.02))
    same = [True] * 600
    assert paired(arm("sham", same), arm("none", same)).equivalence(0.02) < 0.05
    # Where nothing flips, nothing says that questions about one video are independent of one another: 100 videos.
    assert paired(arm("sham", same, 6), arm("none", same, 6)).equivalence(0.02) > 0.05
    assert equivalence(1, 0, 3, 0.02, 8.0) == 1.0


def test_the_size_of_the_clustered_equivalence_test_is_held() -> None:
    """At the margin itself, with questions of a video that are lost together, it says "equivalent" once in twenty."""
    draws, said = np.random.default_rng(6), 0
    for _ in range(200):
        sizes = draws.integers(1, 9, 40)
        lost = [int(size) if draws.random() < 0.15 else 0 for size in sizes]
        videos = tuple((gone, 0, int(size)) for gone, size in zip(lost, sizes, strict=True))
        common = int(sizes.sum())
        said += Paired(common, common, sum(lost), 0, videos).equivalence(0.15) < 0.05
    assert said / 200 < 0.05 + 2 * math.sqrt(0.05 * 0.95 / 200)


def test_whole_videos_are_drawn() -> None:
    """The draws' mean and variance are those of sums of k rows drawn with replacement."""
    rows = np.array([[0, 1], [2, 3], [2, 3], [5, 8], [1, 1]])
    drawn = drawn_by_cluster(rows, 20_000, seed=1)
    assert drawn.shape == (20_000, 2)
    assert drawn.mean(axis=0) == pytest.approx(rows.sum(axis=0), rel=0.02)
    assert np.cov(drawn.T) == pytest.approx(5 * np.cov(rows.T, bias=True), rel=0.06)


def test_intervals_of_videos_are_as_wide_as_the_jackknife_says() -> None:
    """Of a mean over clusters of unequal size, against leaving out one cluster at a time by hand."""
    draws = np.random.default_rng(8)
    sizes = draws.integers(1, 9, 30)
    sums = np.array([int(draws.integers(-size, size + 1)) for size in sizes])
    without = [np.delete(sums, n).sum() / np.delete(sizes, n).sum() for n in range(30)]
    jackknife = math.sqrt(29 / 30 * sum((one - sums.sum() / sizes.sum()) ** 2 for one in without))
    apart = sums - sizes * sums.sum() / sizes.sum()
    by_draws = math.sqrt((apart**2).sum()) / sizes.sum()
    t = student.isf(0.025, sizes.sum() ** 2 / (sizes**2).sum() - 1)
    assert wider_than_draws(sums, sizes) == pytest.approx(jackknife / by_draws * t / norm.isf(0.025))
    values = np.concatenate([[s / size] * int(size) for s, size in zip(sums, sizes, strict=True)])
    change = Change(Clustered(values, np.repeat(np.arange(30), sizes)), tuple(map(str, range(30))))
    assert change.error == pytest.approx(jackknife)
    equal = Change(Clustered(values[:90], np.repeat(np.arange(30), 3)), change.videos)
    assert equal.error == pytest.approx(equal.values.error)


def test_a_macro_mean_draws_videos_over_all_sub_tasks() -> None:
    """A video with a question in each sub-task moves all of them together."""
    right = [video % 3 > 0 for video in range(60) for _ in range(2)]
    shared, alone = arm("none", right, 2, tasks=2), arm("none", right, 1, tasks=2)
    one, other = macro_by_video(shared, resamples=4000), macro_by_video(alone, resamples=4000)
    assert one.value == other.value == pytest.approx(2 / 3)
    assert one.interval[1] - one.interval[0] > 1.3 * (other.interval[1] - other.interval[0])


# All arms at once


def test_simultaneous_intervals_are_wider_and_as_wide_as_one_where_arms_are_the_same() -> None:
    full = arm("none", answers(1, 400, 0.7))
    others = [arm(f"cut{n}", answers(10 + n, 400, 0.6)) for n in range(6)]
    changes = [Change.of(one, full) for one in others]
    found = simultaneous(changes)
    for one, change in zip(found, changes, strict=True):
        low, high = change.values.interval
        assert one.interval[0] < low < high < one.interval[1]
    (alone,), copies = simultaneous(changes[:1]), simultaneous([changes[0]] * 6)
    assert alone.interval == pytest.approx(changes[0].values.interval, abs=2e-3)
    assert copies[3].interval == pytest.approx(
        alone.interval, abs=2e-3
    )  # Holm would take six times the p value
    assert found == simultaneous(changes)  # seeded
    never = simultaneous([Change.of(full, full), *changes])[0]
    assert never.p_value == 1.0
    assert never.interval[0] < 0 < never.interval[1]


def test_simultaneous_p_values_lie_between_one_test_and_holm() -> None:
    full = arm("none", answers(1, 400, 0.62), 2)
    board = board_of(full, *(arm(f"cross_frame@{n}", answers(20 + n, 400, 0.55), 2) for n in range(1, 6)))
    for entry in board.entries:
        if entry.test is not None:
            together = board.together[entry.label]
            assert together.holm >= entry.test.p_value
            assert together.at_once.p_value >= entry.test.p_value * 0.8  # t's and not the exact test's
            assert together.at_once.p_value <= min(1.0, 5 * entry.test.p_value * 1.3 + 0.01)


def test_coverage_on_a_few_boards_of_the_benchmark() -> None:
    """benchmarks/coverage_of_boards.py has the table, of 2,000 boards of each kind."""
    draws = np.random.default_rng(4)
    made = [made_board(draws, 60, 0.65) for _ in range(60)]
    held = {name: sum(one[name] for one in made) / 60 for name in made[0]}
    assert min(held[name] for name in ("difference", "accuracy", "max_t")) >= 0.85
    assert held["each_alone"] < held["max_t"]
    assert max(held["difference_independent"], held["accuracy_independent"]) < 0.9


# Tables and pairs


def test_tables_show_videos_and_what_would_have_shown() -> None:
    one, other = clustered_pair()
    tables = {table.name: table for table in all_tables(board_of(other, one))}
    for name in ("leaderboard", "tests"):
        heads = [column.head for column in tables[name].columns]
        assert {"videos", "shows from", "p (sign flips)"} <= set(heads)
        row = dict(zip(heads, list(tables[name].texts())[-1], strict=True))
        assert row["videos"] == "60"
        assert float(row["shows from"]) > 5
        assert any("one cluster" in note for note in tables[name].notes)
    heads = [column.head for column in tables["tests"].columns]
    assert {"p (Holm)", "p (max-T)", "Δ of all arms [95 %]"} <= set(heads)
    plain = {
        table.name: table
        for table in all_tables(board_of(arm("none", [True] * 9), arm("blind", [False] * 9)))
    }
    assert "p (McNemar)" in [column.head for column in plain["tests"].columns]
    assert not any("one cluster" in note for note in plain["tests"].notes)


def with_pairs(flow: str, right: Sequence[bool], a_video: int = 1) -> Arm:
    """Questions 0 and 1 are a pair, 2 and 3, and so on."""
    made = arm(flow, right)
    for (task, number), sample in list(made.samples.items()):
        made.samples[task, number] = replace(
            sample, id=str(number), pair=str(number ^ 1), clip=f"{number // (2 * a_video)} {number % 2}"
        )
    return made


def test_both_of_a_pair_right_against_the_baseline() -> None:
    full = with_pairs("none", [True, True, True, True, True, False, False, False])
    cut = with_pairs("blind", [True, False, True, True, True, True, False, False])
    board = board_of(full, cut)
    entry = next(one for one in board.entries if one.arm.flow == "blind")
    change = both_right_change(entry)
    assert change is not None
    assert (change.common, change.lost, change.won, change.by_video) == (4, 1, 1, ())
    assert both_right(entry.arm).value == 0.5
    # Pairs that share a video, as two questions about a clip and its reversal do, are one cluster.
    shared = both_right(with_pairs("none", [True] * 8, a_video=2))
    assert (shared.total, shared.videos) == (4, 2)


def test_pairs_of_answers_in_clusters() -> None:
    found = paired_answers([(True, False, "a"), (True, True, "a"), (False, True, "b"), (False, False, "c")])
    assert found.by_video == ((0, 0, 1), (0, 1, 1), (1, 0, 2))
    assert (found.common, found.right, found.lost, found.won) == (4, 2, 1, 1)
    assert paired_answers([]) == Paired(0, 0, 0, 0)
    assert Clustered.of([], []).num_clusters == 0


# Read-outs


@dataclass(frozen=True)
class Made(Traced):
    """A traced sample whose arrays lie in memory."""

    def arrays(self) -> Arrays:
        about = {
            "knockouts": ["video:answer"],
            "centres": [1, 2],
            "window": 1,
            "style": "center",
            "num_layers": 2,
            "anchors": [[0, "left"]],
            "letters": ["A", "B"],
            "true_letter": "A",
        }
        values = {
            "words.probability": np.full((1, 1, 2), 0.25, dtype=np.float32),
            "words.baseline": np.full(1, 0.5, dtype=np.float32),
            "generation_probability.head": np.full((2, 2), 0.5, dtype=np.float32),
        }
        return Arrays(values, about)


def traced(doc_id: int, **fields: Any) -> Traced:
    shapes = {"words.probability": (1, 1, 2), "generation_probability.head": (2, 2)}
    made = record(
        doc_id, True, "none", base="b_x", arrays="x", shapes=shapes, clip=f"{doc_id // 2}", **fields
    )
    return Made(SampleRecord.from_dict(made), Path())


def test_read_outs_of_other_frames_and_protocols_stay_apart() -> None:
    """What was asked of 8 frames has no mean with what was asked of 16, of words no more than of maps."""
    asked = [traced(n) for n in range(4)] + [traced(n, num_frames=16) for n in range(2)]
    asked += [traced(n, protocol="stock") for n in range(3)]
    words, gathered = words_in(asked), gather(asked)
    assert sorted((one.frames, one.protocol, len(one.samples)) for one in words) == [
        (8, "paper", 4),
        (8, "stock", 3),
        (16, "paper", 2),
    ]
    assert sorted((one.frames, one.protocol, len(one.clips["head true"])) for one in gathered) == [
        (8, "paper", 4),
        (8, "stock", 3),
        (16, "paper", 2),
    ]
    assert len({one.title for one in gathered}) == 3
    (curve,) = (one.curve("video:answer", 1) for one in words if (one.frames, one.protocol) == (8, "paper"))
    assert (curve.questions, curve.clips) == (4, 2)
    assert curve.mean.tolist() == [-50.0, -50.0]


def test_a_sub_task_of_one_question_counts_as_much_as_the_others() -> None:
    """The last question is the only one of the second sub-task, about a video of the first."""
    one = arm("none", [True, False, False, True], 2)
    last = next(reversed(one.samples))
    one.samples[last] = replace(one.samples[last], task="other")
    assert [len(one.answered(name)) for name in one.subtasks] in ([3, 1], [1, 3])
    assert macro_by_video(one, resamples=100).value == pytest.approx((1 / 3 + 1) / 2)
