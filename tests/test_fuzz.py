"""A small share of the fuzzer's inputs (`python -m scripts.fuzz` has a million), and what it found once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lmms_flow.errors import LONGEST, FlowError, RecordError, ReportError, SampleError
from lmms_flow.flow import Flow
from lmms_flow.inputs.options import find_options
from lmms_flow.inputs.video import read_frames
from lmms_flow.records.journal import JournalLine
from lmms_flow.records.record import SampleRecord
from lmms_flow.report.runs import read_runs
from scripts.fuzz.__main__ import READERS, run
from scripts.fuzz.files import RECORD
from tests.support.lmms_logs import write_log, write_results

FEW = {"video_header": 10, "results": 20, "arrays": 30, "flow_yaml": 100}


@pytest.mark.parametrize("reader", READERS)
def test_only_our_own_errors_come_out(reader: str, tmp_path: Path) -> None:
    count = FEW.get(reader, 500)
    found = run(reader, count, seed=1, folder=tmp_path)
    assert found.failures == {}
    assert found.read + found.refused.total() == count
    assert found.read, "every input is refused: none goes deep"


def test_a_reader_that_breaks_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise KeyError("x")

    monkeypatch.setitem(READERS, "language", (broken, 1))
    assert list(run("language", 3, 0, tmp_path).failures.values()) == [("language:0", 3)]


@pytest.mark.parametrize(
    "content",
    [
        "{" * 2000,
        "a: &a [x, x]\ncut: [*a]",
        "base: &x {}\n<<: *x",
        "- " * 3000,
        "cut: ['" + "x" * 200_000 + "']",
    ],
)
def test_flow_files_that_would_never_be_read_are_refused_at_once(content: str, tmp_path: Path) -> None:
    file = tmp_path / "flow.yaml"
    file.write_text(content)
    with pytest.raises(FlowError) as caught:
        Flow.load(file)
    assert len(str(caught.value)) < 2 * LONGEST


def test_errors_quote_what_was_written_in_one_line_of_bearable_length() -> None:
    for text in ("video:last\x1b[2J\nrm", "x" * 1_000_000, "\ud800+\u202e"):
        with pytest.raises(FlowError) as caught:
            Flow.load(text)
        assert str(caught.value).isprintable()
        assert len(str(caught.value)) <= LONGEST
    with pytest.raises(FlowError, match="join rules by"):  # what to write instead is still there
        Flow.load(" " * 1_000_000)


@pytest.mark.parametrize("field", ["edges_kept", "milliseconds", "doc_id", "flops"])
def test_numbers_that_nothing_can_be_computed_with_are_no_record(field: str) -> None:
    with pytest.raises(RecordError, match=f"the record's {field} is 1000.*below 2"):
        SampleRecord.from_dict({**RECORD, field: 10**400})
    with pytest.raises(RecordError, match="its time is"):
        JournalLine.from_dict(
            {"format": RECORD["format"], "key": "k", "time": 10**400, "record": RECORD}, "line"
        )


def test_white_space_between_options_is_not_split_in_every_way() -> None:
    """With two stars of white space in a row this would take most of an hour, and the suite's limit ends it."""
    assert find_options("(A) left" + " " * 200_000 + "(C) up", {"candidates": ["left", "right"]}) == ()


@pytest.mark.parametrize("config", [{"limit": [8]}, {"limit": 10**400}, {"offset": {}}, {"model_args": 7}])
def test_results_files_of_odd_types_are_read_as_far_as_they_go(
    config: dict[str, object], tmp_path: Path
) -> None:
    write_log(tmp_path, "none", [True, False])
    file = write_results(tmp_path, "", {"t": ["accuracy"]})
    values = json.loads(file.read_text())
    values["config"] |= config
    values["configs"]["t"]["metric_list"] = "accuracy"
    file.write_text(json.dumps(values))
    assert len(read_runs([tmp_path]).arms) == 1
    write_log(tmp_path, "none", [True], line={"doc_id": float("inf")})
    with pytest.raises(ReportError, match="line 1: no sample"):
        read_runs([tmp_path])


def test_videos_without_a_picture_are_one_failed_sample(tmp_path: Path) -> None:
    file = tmp_path / "clip\n\x1b[31m.mp4"
    file.write_bytes(b"\0\0\0\x18ftypmp42" + b"\xff" * 200)
    with pytest.raises(SampleError) as caught:
        read_frames(file, 4)
    assert str(caught.value).isprintable()
