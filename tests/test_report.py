"""Arms read from lmms-eval's logs: which there are, what they are called, and what each is compared with."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from lmms_flow.cli import main
from lmms_flow.errors import ReportError
from lmms_flow.records.record import FORMAT, UNREADABLE
from lmms_flow.report.arms import arm_names, baseline_of, benchmark_of, sham_of
from lmms_flow.report.pairing import paired
from lmms_flow.report.runs import read_arms, read_runs
from lmms_flow.report.statistics import accuracy
from tests.support.lmms_logs import record, write_log

MADE = record(1, True, "none")


@pytest.mark.smoke
def test_an_arm_has_its_samples_and_what_they_cost(tmp_path: Path) -> None:
    write_log(
        tmp_path,
        "video:last",
        [True] * 8 + [False] * 2 + [None],
        flops=6_000_000,
        flops_full=8_000_000,
        shared_milliseconds=100.0,
    )
    (arm,) = read_arms([tmp_path])
    score = accuracy(arm)
    assert (score.right, score.total, arm.count("error")) == (8, 10, 1)  # the error is counted, not scored
    assert arm.chance() == 0.5
    assert arm.share_kept == 0.25
    assert arm.flops == (6_000_000, 0.75)
    assert arm.seconds == pytest.approx(5.5)
    assert arm.shared_seconds == pytest.approx(1.1)


def test_only_common_samples_are_paired(tmp_path: Path) -> None:
    write_log(tmp_path / "a", "none", [True, None, True])
    write_log(tmp_path / "b", "blind", [False, False, None])
    baseline, blind = read_arms([tmp_path])
    assert paired(blind, baseline).common == 1


def test_the_later_of_two_runs_counts(tmp_path: Path) -> None:
    write_log(tmp_path / "later", "none", [True], time="20260101_000001")
    write_log(tmp_path / "earlier", "none", [False])
    (arm,) = read_arms([tmp_path])
    assert accuracy(arm).right == 1
    old = write_log(tmp_path / "copied" / "a", "none", [True])
    new = write_log(tmp_path / "copied" / "b", "none", [False])
    os.utime(old, (1, 1))
    os.utime(new, (2, 2))
    (arm,) = read_arms([tmp_path / "copied"])  # of one second: the file that was written later
    assert accuracy(arm).right == 0


def test_what_says_neither_right_nor_wrong_is_passed_over_and_nothing_at_all_is_an_error(
    tmp_path: Path,
) -> None:
    (tmp_path / "x_samples_mmlu.jsonl").write_text('{"doc_id": 0}\n{"record": {"speaker": "x"}}\n')
    with pytest.raises(ReportError, match="no sample logs that can be compared"):
        read_arms([tmp_path])
    write_log(tmp_path, "none", [True])
    assert read_runs([tmp_path]).notes == [
        "x_samples_mmlu.jsonl is passed over: no metric of it says right or wrong"
    ]
    (tmp_path / "x_samples_t.jsonl").write_text("{torn")
    with pytest.raises(ReportError, match="x_samples_t.jsonl, line 1: not JSON"):
        read_arms([tmp_path])


def test_arms_of_one_run_are_tasks_of_their_own_and_share_their_bases_questions(tmp_path: Path) -> None:
    write_log(tmp_path, "none", [True, True], "tvbench_flow_object_count")
    write_log(
        tmp_path,
        "blind",
        [True, False],
        "tvbench_flow_blind_object_count",
        base="tvbench_flow_object_count",
    )
    baseline, blind = read_arms([tmp_path])
    assert blind.subtasks == baseline.subtasks == ["tvbench_flow_object_count"]
    assert paired(blind, baseline).lost == 1
    assert baseline_of(blind, [baseline, blind]) is baseline


def test_runs_of_other_frames_another_engine_or_protocol_are_arms_of_their_own(tmp_path: Path) -> None:
    write_log(tmp_path / "a", "none", [True] * 4)
    write_log(tmp_path / "b", "none", [False] * 3 + [None], num_frames=1)
    write_log(tmp_path / "c", "video:last", [True, True, False, None])
    arms = read_arms([tmp_path])
    assert arm_names(arms) == ["none (full attention)", "none (single frame)", "video:last"]
    assert [len(arm.samples) for arm in arms] == [4, 4, 4]  # one that failed stays with its run
    assert [baseline_of(arm, arms) for arm in arms] == [None, arms[0], arms[0]]
    write_log(tmp_path / "d", "video:last", [True] * 4, num_frames=1, engine="sparse")
    write_log(tmp_path / "e", "none", [True] * 4, num_frames=1, engine="sparse")
    arms = read_arms([tmp_path])
    assert arm_names(arms)[-2:] == ["video:last, dense", "video:last, 1 frame, sparse"]
    baseline = baseline_of(arms[-1], arms)
    assert baseline is not None
    assert (baseline.flow, baseline.frames, baseline.engine) == ("none", 1, "sparse")
    write_log(tmp_path / "f", "blind", [True] * 4, protocol="stock")
    arms = read_arms([tmp_path])
    blind = next(arm for arm in arms if arm.flow == "blind")
    assert baseline_of(blind, arms) is None
    assert arm_names(arms)[arms.index(blind)] == "blind (no video), dense, stock protocol"


def test_an_arm_on_other_frames_than_every_baseline_has_none(tmp_path: Path) -> None:
    write_log(tmp_path / "a", "none", [True])
    write_log(tmp_path / "b", "blind", [True], num_frames=4)
    baseline, blind = read_arms([tmp_path])
    assert baseline_of(blind, [baseline, blind]) is None
    assert arm_names([baseline, blind]) == ["none (full attention), 8 frames", "blind (no video), 4 frames"]


def test_a_baseline_answered_the_same_questions(tmp_path: Path) -> None:
    write_log(tmp_path / "a", "none", [True], "bench_one", num_frames=8)
    write_log(tmp_path / "b", "none", [True], "bench_two", num_frames=24)
    write_log(tmp_path / "c", "none", [True], "bench_one", num_frames=1)
    arms = read_arms([tmp_path])
    baseline = baseline_of(arms[-1], arms)
    assert baseline is not None
    assert (arms[-1].frames, baseline.frames) == (1, 8)


def test_pathways_stand_beside_their_controls(tmp_path: Path) -> None:
    flows = [
        "blind",
        "cross_frame",
        "mirrored:effective",
        "random:effective:seed1",
        "effective",
        "sham",
        "none",
    ]
    for number, flow in enumerate(flows):
        write_log(tmp_path / str(number), flow, [True])
    order = [arm.flow for arm in read_arms([tmp_path])]
    assert order == [
        "none",
        "sham",
        "effective",
        "random:effective:seed1",
        "mirrored:effective",
        "cross_frame",
        "blind",
    ]


def test_what_a_record_leaves_empty_is_no_difference(tmp_path: Path) -> None:
    empty: dict[str, Any] = {"protocol": "", "prompt_digest": "", "data_digest": ""}
    write_log(tmp_path, "none", [True, None], num_frames=0, frames=range(8), **empty)
    write_log(tmp_path / "b", "blind", [True, False])
    baseline, blind = read_arms([tmp_path])
    assert (baseline.frames, baseline.protocol, len(baseline.samples)) == (8, "", 2)
    assert baseline_of(blind, [baseline, blind]) is baseline


def test_names_say_what_tells_arms_apart_and_nothing_else(tmp_path: Path) -> None:
    for flow in ("none", "sham", "blind", "effective", "effective_closed"):
        write_log(tmp_path / flow, flow, [True], num_frames=4, engine="sparse")
    write_log(tmp_path / "own", "mine.yaml", [True], num_frames=4, engine="sparse")
    write_log(
        tmp_path / "edited", "mine.yaml", [True], num_frames=4, engine="sparse", flow_digest="after editing"
    )
    arms = read_arms([tmp_path])
    names = arm_names(arms)
    assert names[:2] == ["none (full attention)", "sham (nothing cut)"]
    assert set(names[2:]) == {
        "blind (no video)",
        "effective",
        "effective_closed (unvalidated)",
        "mine.yaml, digest digest-mine.yaml",
        "mine.yaml, digest after editing",
    }
    assert sham_of(arms[-1], arms) is arms[1]
    assert sham_of(arms[1], arms) is None


def test_an_arm_that_does_not_apply_says_why(tmp_path: Path) -> None:
    write_log(
        tmp_path,
        "effective",
        [None, None],
        status="skipped",
        reason="no pathway is known for checkpoint 'tiny'",
        flow_digest="",
    )
    (arm,) = read_arms([tmp_path])
    assert (arm.count("skipped"), arm.count("error")) == (2, 0)
    assert arm.skipped_because == "no pathway is known for checkpoint 'tiny'"


@pytest.mark.parametrize(
    ("task", "benchmark"),
    [
        ("tvbench_flow_action_antonym", "tvbench"),
        ("tomato", "tomato"),
        ("longvideobench_flow", "longvideobench"),
        ("longvideobench_flow_24", "longvideobench_flow_24"),
        ("longvideobench_flow_24_sos", "longvideobench_flow_24"),
    ],
)
def test_a_benchmark_is_the_first_word_of_its_tasks(task: str, benchmark: str) -> None:
    assert benchmark_of(task) == benchmark


def test_a_record_that_cannot_be_read_costs_itself_and_is_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write_log(tmp_path, "none", [True] * 4)
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    rows[0] |= UNREADABLE
    del rows[2]["record"]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (arm,) = read_arms([tmp_path])
    assert (accuracy(arm).total, arm.count("error"), arm.count("unreadable")) == (2, 0, 2)
    assert main(["compare", str(tmp_path)]) == 1
    assert "2 samples have no record that can be read" in capsys.readouterr().out


def test_what_is_unreadable_in_an_arms_log_is_of_that_arm(tmp_path: Path) -> None:
    write_log(tmp_path, "none", [True, True], "flowbench_count")
    file = write_log(
        tmp_path, "blind", [True, True, True], "flowbench_flow_blind_count", base="flowbench_count"
    )
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    rows[0] |= UNREADABLE
    del rows[1]["accuracy"]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    baseline, blind = read_arms([tmp_path])
    assert (accuracy(baseline).total, baseline.count("unreadable")) == (2, 0)
    assert (accuracy(blind).total, blind.count("unreadable")) == (1, 2)
    assert blind.flow == "blind"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"[1, 2]", "line 2: not a JSON object"),
        (b"\xff\xfe", "line 2: not JSON"),
        (b"[" * 100_000, "line 2: not JSON"),
        (b'{"doc_id": 1, "record": {"flow_digest": "x"}}', "line 2: the record has no format number"),
        (
            b'{"doc_id": 1, "record": {"format": 9}}',
            "line 2: the record has format 9, and this version reads",
        ),
        (
            json.dumps({"doc_id": 1, "record": {"format": FORMAT}}).encode(),
            f"line 2: the record lacks the field 'id' of format {FORMAT}",
        ),
        (b'{"doc_id": 1, "record": "{}"}', "line 2: the record is str, not a JSON object"),
        (json.dumps({"record": MADE}).encode(), "line 2: no sample of this package's"),
        (
            json.dumps({"doc_id": 1, "accuracy": [], "record": MADE}).encode(),
            "line 2: no sample of this package's",
        ),
    ],
)
def test_a_damaged_log_is_one_line_with_its_place(
    tmp_path: Path, line: bytes, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write_log(tmp_path, "none", [True])
    file.write_bytes(file.read_bytes() + line + b"\n")
    assert main(["compare", str(tmp_path)]) == 2
    err = capsys.readouterr().err
    assert f"{file}, {message}" in err
    assert err.count("\n") == 1


def test_a_run_without_any_readable_record_is_named(tmp_path: Path) -> None:
    (tmp_path / "x_samples_t.jsonl").write_text(json.dumps({"doc_id": 0, **UNREADABLE}) + "\n")
    with pytest.raises(ReportError, match=r"x_samples_t.jsonl: none of this run's records can be read"):
        read_arms([tmp_path])
