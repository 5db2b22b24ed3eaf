"""Stock tasks: the score is in lmms-eval's log, the record in our journal. They are joined, or refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lmms_flow.errors import ReportError
from lmms_flow.report.runs import read_arms
from lmms_flow.report.scores import category, find_metric, is_right
from lmms_flow.report.statistics import accuracy
from tests.support.lmms_logs import (
    record,
    write_journal,
    write_lines,
    write_log,
    write_results,
    write_stock_log,
)

TASK = "tvbench_object_count"
METRICS = {TASK: ["tvbench_acc"]}


def journaled(flow: str, correct: list[bool | None], **fields: Any) -> list[dict[str, Any]]:
    return [record(n, right, flow, **{"task": TASK, **fields}) for n, right in enumerate(correct)]


def test_scores_and_records_are_joined_by_document(tmp_path: Path) -> None:
    for time, flow in (("20260101_000000", "none"), ("20260101_000001", "blind")):
        write_stock_log(tmp_path, [True, False, True], time=time)
        write_results(tmp_path, f"flow={flow},records={tmp_path}/records", METRICS, time=time)
        write_journal(tmp_path / "records", journaled(flow, [True, False, True], protocol="stock"))
    none, blind = read_arms([tmp_path])
    assert (none.flow, none.share_kept, none.checkpoint) == ("none", 1.0, "tiny")
    assert (blind.flow, blind.share_kept, blind.protocol) == ("blind", 0.25, "stock")
    assert [accuracy(arm).right for arm in (none, blind)] == [2, 2]


@pytest.mark.parametrize("place", ["lmms_flow_records", "out/lmms_flow_records"])
def test_the_default_folder_is_found_beside_the_output(tmp_path: Path, place: str) -> None:
    write_stock_log(tmp_path / "out" / "model", [True])
    write_results(tmp_path / "out" / "model", "", METRICS)  # all of the model's defaults
    write_journal(tmp_path / place, journaled("none", [True]))
    (arm,) = read_arms([tmp_path / "out"])
    assert arm.checkpoint == "tiny"


def test_a_folder_of_records_can_be_named(tmp_path: Path) -> None:
    write_stock_log(tmp_path / "out", [True])
    write_results(tmp_path / "out", "flow=blind,records=/gone", METRICS)
    write_journal(tmp_path / "moved", journaled("blind", [True]))
    with pytest.raises(ReportError, match=r"none of its samples has a record in no folder .* --records DIR"):
        read_arms([tmp_path / "out"])
    (arm,) = read_arms([tmp_path / "out"], [tmp_path / "moved"])
    assert arm.flow == "blind"
    with pytest.raises(ReportError, match="--records .*elsewhere: there is no such folder"):
        read_arms([tmp_path / "out"], [tmp_path / "elsewhere"])


def test_a_failed_sample_that_the_task_scored_as_wrong_is_not_scored(tmp_path: Path) -> None:
    write_stock_log(tmp_path, [True, False, False], answers=["A", "", "B"])
    write_results(tmp_path, f"on_error=record,records={tmp_path}/records", METRICS)
    failed = journaled("none", [True, None, False])
    failed[1] |= {"num_frames": 0}  # the video could not be opened
    write_journal(tmp_path / "records", failed)
    (arm,) = read_arms([tmp_path])
    assert (accuracy(arm).right, accuracy(arm).total, arm.count("error")) == (1, 2, 1)


def test_a_sample_whose_record_says_another_answer_is_not_scored(tmp_path: Path) -> None:
    write_stock_log(tmp_path, [True, True], answers=["A", "(A)"])
    write_results(tmp_path, f"records={tmp_path}/records", METRICS)
    write_journal(tmp_path / "records", journaled("none", [True, True]))
    (arm,) = read_arms([tmp_path])
    assert (accuracy(arm).total, arm.count("unreadable")) == (1, 1)


def test_of_two_records_the_one_with_the_logged_answer_counts(tmp_path: Path) -> None:
    write_stock_log(tmp_path, [True])
    write_results(tmp_path, f"records={tmp_path}/records", METRICS)
    write_journal(tmp_path / "records", journaled("none", [True], edges_kept=10))
    write_journal(tmp_path / "records", journaled("none", [False], edges_kept=20))
    (arm,) = read_arms([tmp_path])
    assert arm.share_kept == 0.1


@pytest.mark.parametrize(
    ("other", "args", "differs"),
    [
        ({"num_frames": 16}, "", "frames 8, 16"),
        ({"flow_digest": "edited"}, "", "flow digest digest-none, edited"),
        ({"checkpoint": "large"}, "", "checkpoint large, tiny"),
        ({"num_frames": 16}, "num_frames=16,", None),
        ({"checkpoint": "large"}, "pretrained=tiny,", None),
        ({"engine": "sparse"}, "engine=dense,", None),
    ],
)
def test_records_of_several_arms_are_told_apart_by_arguments_or_refused(
    tmp_path: Path, other: dict[str, Any], args: str, differs: str | None
) -> None:
    write_stock_log(tmp_path, [True, False])
    write_results(tmp_path, f"{args}records={tmp_path}/records", METRICS)
    write_journal(tmp_path / "records", journaled("none", [True, False]))
    write_journal(tmp_path / "records", journaled("none", [True, False], **other))
    if differs is None:
        (arm,) = read_arms([tmp_path])
        assert arm.frames == (16 if "num_frames" in args else 8)
        assert (arm.checkpoint, arm.engine) == ("tiny", "dense")
    else:
        with pytest.raises(ReportError, match=rf"may be of 2 arms \({differs}\)"):
            read_arms([tmp_path])


def test_arms_of_a_stock_task_have_records_in_their_log_and_the_baseline_in_the_journal(
    tmp_path: Path,
) -> None:
    write_stock_log(tmp_path, [True, True])
    write_journal(tmp_path / "records", journaled("none", [True, True], protocol="stock"))
    arm = f"{TASK}_blind"
    rows = [
        {
            "doc_id": n,
            "target": "A",
            "errors": 0,
            "skipped": 0,
            "tvbench_acc": right,
            "input": f"question {n}",
            "record": record(n, bool(right), "blind", task=arm, base=TASK, protocol="stock"),
        }
        for n, right in enumerate((1.0, 0.0))
    ]
    write_lines(tmp_path / f"20260101_000000_samples_{arm}.jsonl", rows)
    metrics = {**METRICS, arm: ["errors", "skipped", "tvbench_acc"]}
    write_results(tmp_path, f"records={tmp_path}/records", metrics)
    none, blind = read_arms([tmp_path])
    assert (accuracy(none).right, accuracy(blind).right) == (2, 1)
    assert none.samples.keys() == blind.samples.keys()


def test_a_model_of_the_hosts_is_full_attention_without_a_record(tmp_path: Path) -> None:
    write_stock_log(tmp_path, [True, False])
    write_results(
        tmp_path,
        "pretrained=org/other",
        METRICS,
        model="llava_vid",
        backend="lmms_eval.models.simple.llava_vid",
    )
    (arm,) = read_arms([tmp_path])
    assert (arm.checkpoint, arm.flow, accuracy(arm).right) == ("org/other", "none", 1)
    assert arm.share_kept != arm.share_kept  # not known


def test_a_stock_log_without_results_file_is_passed_over(tmp_path: Path) -> None:
    write_stock_log(tmp_path, [True])
    write_log(tmp_path, "none", [True])
    (arm,) = read_arms([tmp_path])
    assert arm.subtasks == ["t"]


@pytest.mark.parametrize(
    ("metric", "value", "right", "kind"),
    [
        ("tvbench_acc", 1.0, True, ""),
        ("mvbench_accuracy", {"pred_answer": "A", "gt_answer": "B", "score": 0}, False, ""),
        ("videomme_perception_score", {"score": 1.0, "task_category": "OCR Problems"}, True, "OCR Problems"),
        ("tomato_score", {"score": 0.0, "reason_type": "count"}, False, "count"),
        ("lvb_acc", {"answer": "C", "parsed_pred": "C", "question_category": "O3O"}, True, "O3O"),
        ("avg_accuracy", {"rating": 1, "dim": "speed"}, True, "speed"),
        ("score", {"pred": 2, "ground_truth": "3"}, False, ""),
        ("exact_match", True, True, ""),
        ("WUPS", 0.4, None, ""),
        ("vinoground_score", {"pred": "A"}, None, ""),
        ("submission", {"id7": "A"}, None, ""),
    ],
)
def test_a_metrics_value_says_right_or_wrong(metric: str, value: Any, right: bool | None, kind: str) -> None:
    assert is_right(metric, value) is right
    assert category(value) == kind


def test_the_metric_is_the_first_that_judges_every_sample_and_never_a_count() -> None:
    lines: list[dict[str, Any]] = [{"errors": 0, "WUPS": 0.3, "tvbench_acc": 1.0}, {"errors": 1}]
    assert find_metric(lines, ["errors", "WUPS", "tvbench_acc"]) == "tvbench_acc"
    assert find_metric(lines, ["WUPS"]) is None
    assert find_metric(lines, ["elsewhere"]) is None
