"""Arms read from lmms-eval's logs, and their statistics against hand-worked cases."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lmms_flow.cli import main
from lmms_flow.report.comparison import comparison_figure, comparison_table
from lmms_flow.report.runs import ReportError, arm_names, baseline_of, read_arms
from lmms_flow.report.statistics import accuracy, paired


def write_log(
    folder: Path,
    flow: str,
    correct: list[bool | None],
    task: str = "t",
    *,
    frames: int = 8,
    engine: str = "dense",
    checkpoint: str = "tiny",
    **line: object,
) -> Path:
    """A sample log as lmms-eval writes it; None stands for a sample that failed."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"20260101_000000_samples_{task}.jsonl"
    rows = []
    for doc_id, right in enumerate(correct):
        record = {
            "id": str(doc_id),
            "task": task,
            "doc_id": doc_id,
            "status": "error" if right is None else "ok",
            "flow": flow,
            "flow_digest": f"digest-{flow}",
            "engine": engine,
            "frames": [] if right is None else list(range(frames)),
            "checkpoint": checkpoint,
            "edges_kept": 25 if flow != "none" else 100,
            "edges_total": 100,
            "options": {"A": 0.5, "B": 0.25},
            "milliseconds": 500.0,
        }
        row = {"doc_id": doc_id, "doc_hash": "h", "input": f"question {doc_id}", "record": record, **line}
        rows.append(row if right is None else row | {"accuracy": float(right)})
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def test_accuracy_with_its_error_and_wilsons_interval(tmp_path: Path) -> None:
    write_log(tmp_path, "none", [True] * 8 + [False] * 2 + [None])
    (arm,) = read_arms([tmp_path])
    score = accuracy(arm)
    assert (score.right, score.total, arm.errors) == (8, 10, 1)  # the error is counted, not scored
    assert score.error == pytest.approx(0.126491, abs=1e-6)
    assert score.interval == pytest.approx((0.490162, 0.943318), abs=1e-6)  # Wilson (1927) for 8 of 10
    assert arm.chance() == 0.5
    assert arm.seconds == pytest.approx(5.5)


def test_paired_difference_is_mcnemars_exact_test(tmp_path: Path) -> None:
    write_log(tmp_path / "a", "none", [True] * 10 + [False] * 2)
    write_log(tmp_path / "b", "blind", [True] * 4 + [False] * 6 + [True, False])
    baseline, arm = read_arms([tmp_path])
    test = paired(arm, baseline)
    assert (test.common, test.lost, test.won) == (12, 6, 1)
    assert test.difference == pytest.approx(-5 / 12)
    assert test.p_value == pytest.approx(2 * (1 + 7) / 2**7)  # two-sided binomial, 1 of 7 or fewer


def test_identical_arms_differ_by_exactly_nothing(tmp_path: Path) -> None:
    write_log(tmp_path / "a", "none", [True, False, True])
    write_log(tmp_path / "b", "sham", [True, False, True])
    baseline, sham = read_arms([tmp_path])
    assert (paired(sham, baseline).difference, paired(sham, baseline).p_value) == (0.0, 1.0)


def test_only_common_samples_are_paired(tmp_path: Path) -> None:
    write_log(tmp_path / "a", "none", [True, None, True])
    write_log(tmp_path / "b", "blind", [False, False, None])
    baseline, blind = read_arms([tmp_path])
    assert paired(blind, baseline).common == 1


def test_different_prompts_are_not_compared(tmp_path: Path) -> None:
    write_log(tmp_path / "a", "none", [True])
    write_log(tmp_path / "b", "blind", [True], input="another question")
    baseline, blind = read_arms([tmp_path])
    with pytest.raises(ReportError, match="'blind' and 'none' differ in their prompts"):
        paired(blind, baseline)


def test_the_later_of_two_runs_counts(tmp_path: Path) -> None:
    import os

    old = write_log(tmp_path / "old", "none", [False])
    new = write_log(tmp_path / "new", "none", [True])
    os.utime(old, (1, 1))
    os.utime(new, (2, 2))
    (arm,) = read_arms([tmp_path])
    assert accuracy(arm).right == 1


def test_logs_of_other_tasks_are_passed_over_and_nothing_at_all_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "x_samples_mmlu.jsonl").write_text('{"doc_id": 0}\n{"record": {"speaker": "x"}}\n')
    with pytest.raises(ReportError, match="no sample logs of this package's tasks"):
        read_arms([tmp_path])
    (tmp_path / "x_samples_t.jsonl").write_text("{torn")
    with pytest.raises(ReportError, match="x_samples_t.jsonl, line 1: not JSON"):
        read_arms([tmp_path])


def test_table_and_figure_name_every_arm(tmp_path: Path) -> None:
    write_log(tmp_path / "a", "none", [True] * 9 + [False])
    write_log(tmp_path / "b", "video:last", [True] * 5 + [False] * 5)
    arms = read_arms([tmp_path])
    table = comparison_table(arms)
    cells = [list(column.cells) for column in table.columns]
    assert cells[1] == ["none", "video:last"]
    assert cells[3] == ["90.0 ± 9.5", "50.0 ± 15.8"]
    assert cells[5] == ["", "-40.0"]
    assert cells[7] == ["100.0 %", "25.0 %"]
    assert comparison_figure(arms, tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")


def test_runs_of_other_frames_or_another_engine_are_arms_of_their_own(tmp_path: Path) -> None:
    write_log(tmp_path / "a", "none", [True] * 4)
    write_log(tmp_path / "b", "none", [False] * 3 + [None], frames=1)
    write_log(tmp_path / "c", "video:last", [True, True, False, None])
    arms = read_arms([tmp_path])
    assert arm_names(arms) == ["none, 8 frames", "none, 1 frame", "video:last, 8 frames"]
    assert [len(arm.samples) for arm in arms] == [4, 4, 4]  # one that failed stays with its run
    assert [baseline_of(arm, arms) for arm in arms] == [None, arms[0], arms[0]]
    table = comparison_table(arms)
    assert list(table.columns[5].cells) == ["", "-100.0", "-33.3"]
    assert "none on the most frames" in str(table.caption)
    write_log(tmp_path / "d", "video:last", [True] * 4, frames=1, engine="sparse")
    write_log(tmp_path / "e", "none", [True] * 4, frames=1, engine="sparse")
    arms = read_arms([tmp_path])
    assert arm_names(arms)[-1] == "video:last, 1 frame, sparse"
    baseline = baseline_of(arms[-1], arms)
    assert baseline is not None
    assert (baseline.flow, baseline.frames, baseline.engine) == ("none", 1, "sparse")


def test_names_say_frames_and_engine_only_where_arms_differ_in_them(tmp_path: Path) -> None:
    write_log(tmp_path / "a", "none", [True], frames=4, engine="sparse")
    write_log(tmp_path / "b", "blind", [True], frames=4, engine="sparse")
    arms = read_arms([tmp_path])
    assert arm_names(arms) == ["none", "blind"]
    assert comparison_table(arms).caption is None


def test_a_record_that_cannot_be_read_costs_itself_and_is_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write_log(tmp_path, "none", [True] * 4)
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    rows[0]["record"] = {"status": "error", "reason": "the sample's record can't be read"}
    del rows[2]["record"]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (arm,) = read_arms([tmp_path])
    assert (accuracy(arm).total, arm.errors, arm.unreadable) == (2, 0, 2)
    assert main(["compare", str(tmp_path)]) == 1
    assert "2 samples have no record that can be read" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"[1, 2]", "line 2: not a JSON object"),
        (b"\xff\xfe", "line 2: not JSON"),
        (b"[" * 100_000, "line 2: not JSON"),
        (b'{"doc_id": 1, "record": {"flow_digest": "x"}}', "line 2: no sample of this package's"),
        (b'{"record": {"status": "error"}}', "line 2: no sample of this package's"),
        (
            b'{"doc_id": 1, "accuracy": [], "record": {"flow_digest": "x", "task": "t", "status": "ok"}}',
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
    (tmp_path / "x_samples_t.jsonl").write_text('{"doc_id": 0, "record": {"status": "error"}}\n')
    with pytest.raises(ReportError, match=r"x_samples_t.jsonl: none of this run's records can be read"):
        read_arms([tmp_path])


def test_a_name_is_printed_and_drawn_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Neither rich's markup, nor its emoji, nor matplotlib's formulas."""
    for number, name in enumerate(("late cut [v2]", "[/x]", ":fire: $\\frac$ $x")):
        write_log(tmp_path / str(number), name, [True], checkpoint=f"[bold]{number} $a_$", task="t$^$")
    assert main(["compare", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    for name in ("late cut [v2]", "[/x]", ":fire: $\\frac$ $x", "[bold]0 $a_$"):
        assert name in out


def test_compare_exits_with_1_where_samples_failed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_log(tmp_path, "none", [True, None])
    assert main(["compare", str(tmp_path)]) == 1
    captured = capsys.readouterr()
    assert "1 samples failed" in captured.err
    assert f"figure: {tmp_path}/comparison.png" in captured.out
    assert main(["compare", str(tmp_path), "--allow-errors"]) == 0
