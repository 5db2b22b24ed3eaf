"""The journal: what was answered is kept, whatever happens next, and nothing stale is served."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_type_hints

import pytest

from lmms_flow.errors import RecordError, RunError, SampleError
from lmms_flow.records.fields import AnswerFields, RunFields
from lmms_flow.records.journal import Journal, read_journal, slug
from lmms_flow.records.key import PIECE, clip_digest, digest, file_identity, sample_key
from lmms_flow.records.record import FORMAT, SampleRecord, Status, fits

FULL = SampleRecord(
    id="clip-3",
    task="flowbench_object_count",
    doc_id=3,
    status="ok",
    answer="A",
    flow="video:last",
    flow_name="video:last",
    flow_digest="d1",
    engine="dense",
    edges_kept=10,
    edges_total=20,
    groups_rule="last option",
    frames=(1, 4, 7),
    options={"A": 0.75, "B": 0.25},
    milliseconds=12.5,
    checkpoint="org/model@main",
    notes=("gap is empty in this prompt",),
)


def record(doc_id: int = 0, task: str = "t", **fields: Any) -> SampleRecord:
    values: dict[str, Any] = {
        "id": str(doc_id),
        "task": task,
        "doc_id": doc_id,
        "status": "ok",
        "answer": "A",
    }
    return SampleRecord(**values | fields)


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for path in sorted(folder.glob("*.jsonl")) for line in path.open()]


@pytest.mark.smoke
def test_a_record_survives_json() -> None:
    assert SampleRecord.from_json(FULL.to_json()) == FULL
    assert "\n" not in FULL.to_json()


def test_a_records_json_has_nothing_that_the_host_strips() -> None:
    """lmms-eval removes <think> blocks from whatever a model returns, a record included."""
    thoughtful = record(answer="<think>left</think>A")
    assert "<" not in thoughtful.to_json()
    assert SampleRecord.from_json(thoughtful.to_json()) == thoughtful


def test_every_field_of_a_record_is_known_by_the_run_the_answer_or_the_loop() -> None:
    """By one of them alone, and with the same type as in the record."""
    loop = {"id": str, "task": str, "doc_id": int, "status": Status, "reason": str, "answer": str}
    run, answer = get_type_hints(RunFields), get_type_hints(AnswerFields)
    journal = {"arrays": str, "shapes": Mapping[str, tuple[int, ...]]}
    known = [*loop.items(), *run.items(), *answer.items(), *journal.items()]
    record = {name: kind for name, kind in get_type_hints(SampleRecord).items() if name != "format"}
    assert sorted(known, key=repr) == sorted(record.items(), key=repr)


WITHOUT_ENGINE = {name: value for name, value in FULL.to_dict().items() if name != "engine"}
OTHERS = {
    f"the record has no format number, and this version reads format {FORMAT}": {
        name: value for name, value in FULL.to_dict().items() if name != "format"
    },
    f"the record has format 1, and this version reads format {FORMAT}": FULL.to_dict() | {"format": 1},
    "the record has format '2', and": FULL.to_dict() | {"format": "2"},
    "the record has format True, and": FULL.to_dict() | {"format": True},
    f"the record lacks the field 'engine' of format {FORMAT}": WITHOUT_ENGINE,
    "the record is list, not a JSON object": [FULL.to_dict()],
    "the record's status is 'fine', not 'ok' or 'error' or 'skipped'": FULL.to_dict() | {"status": "fine"},
    "the record's doc_id is '3', not a whole number": FULL.to_dict() | {"doc_id": "3"},
    "the record's edges_kept is True, not a whole number or null": FULL.to_dict() | {"edges_kept": True},
    "the record's options is {'A': 'x'}, not an object of numbers": FULL.to_dict() | {"options": {"A": "x"}},
    "the record's frames is [1, None], not a list, each of it a whole number": FULL.to_dict()
    | {"frames": [1, None]},
}


@pytest.mark.parametrize("says", OTHERS)
def test_a_record_of_another_format_is_refused_by_name(tmp_path: Path, says: str) -> None:
    """In a journal with its file and line; a run and a report refuse it alike."""
    with Journal(tmp_path) as journal:
        journal.write("a", record(0))
    (path,) = tmp_path.glob("*.jsonl")
    line = {"format": FORMAT, "key": "b", "time": 1.0, "record": OTHERS[says]}
    path.write_text(path.read_text() + json.dumps(line) + "\n")
    expected = re.escape(f"{path}, line 2: {says}") + ".*; delete the file and run again"
    with pytest.raises(RecordError, match="^" + expected):
        read_journal(tmp_path)
    with pytest.raises(RunError, match=expected + ", or name another folder with records=FOLDER"):
        Journal(tmp_path)
    with pytest.raises(RecordError, match=re.escape(says)):
        SampleRecord.from_json(json.dumps(OTHERS[says]))


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ({"key": "b", "time": 1.0, "record": FULL.to_dict()}, "the line of the journal has no format number"),
        ({"format": FORMAT, "time": 1.0, "record": FULL.to_dict()}, "its key is None, not text"),
        ({"format": FORMAT, "key": "b", "record": FULL.to_dict()}, "its time is None, not a number"),
        ({"format": FORMAT, "key": "b", "time": 1.0}, "the record is NoneType, not a JSON object"),
        ({"doc_id": 0, "target": "A"}, "the line of the journal has no format number"),
        ([], "the line of the journal is list, not a JSON object"),
    ],
)
def test_a_line_that_is_none_of_a_journal_is_refused(tmp_path: Path, line: Any, says: str) -> None:
    (tmp_path / "t.jsonl").write_text(json.dumps(line) + "\n")
    with pytest.raises(RecordError, match=re.escape(f"{tmp_path / 't.jsonl'}, line 1: {says}")):
        read_journal(tmp_path)


@pytest.mark.parametrize("rubbish", ["", "{", "\udce9", "[" * 100_000])
def test_what_is_not_json_is_no_record(rubbish: str) -> None:
    with pytest.raises(RecordError, match="a record: not JSON, so it is no record"):
        SampleRecord.from_json(rubbish)


def test_records_and_lines_say_their_format(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        journal.write("a", FULL)
    (line,) = lines(tmp_path)
    assert (line["format"], line["record"]["format"]) == (FORMAT, FORMAT)


@pytest.mark.smoke
def test_answers_are_found_again(tmp_path: Path) -> None:
    with Journal(tmp_path / "new" / "folder") as journal:
        journal.write("k", FULL)
        assert journal.find("k") == FULL
    again = Journal(tmp_path / "new" / "folder")
    assert again.find("k") == FULL
    assert again.find("other") is None


def test_a_line_is_on_disk_when_write_returns(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    for i in range(3):
        journal.write(f"k{i}", record(i))
        assert [line["key"] for line in lines(tmp_path)] == [f"k{j}" for j in range(i + 1)]


def test_errors_are_kept_but_tried_again(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        journal.write("k", record(status="error", reason="the video is missing"))
    assert Journal(tmp_path).find("k") is None
    assert [r.reason for r in read_journal(tmp_path)] == ["the video is missing"]


@pytest.mark.parametrize("kept", [0, 1, 20, -1])
def test_a_line_torn_by_a_kill_is_cut_off(tmp_path: Path, kept: int) -> None:
    with Journal(tmp_path) as journal:
        journal.write("first", record(0))
        journal.write("torn", record(1))
    path = tmp_path / "t.rank0.jsonl"
    first, torn = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(first + (torn[:kept] if kept >= 0 else torn[:-1]))
    with Journal(tmp_path) as journal:
        assert journal.find("first") == record(0)
        assert journal.find("torn") is None
        journal.write("torn", record(1))
    assert [line["key"] for line in lines(tmp_path)] == ["first", "torn"]


def test_a_torn_line_longer_than_a_block_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "t.rank0.jsonl"
    path.write_bytes(b'{"key": "' + b"x" * 200_000)
    with Journal(tmp_path) as journal:
        journal.write("k", record())
    assert [line["key"] for line in lines(tmp_path)] == ["k"]


def test_a_damaged_line_costs_only_itself(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        journal.write("a", record(0))
        journal.write("b", record(1))
    path = tmp_path / "t.rank0.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"doc_id": 0', b'"doc_id: 0'))
    journal = Journal(tmp_path)
    assert journal.find("a") is None
    assert journal.find("b") == record(1)


def test_ranks_and_runs_write_apart_and_read_all(tmp_path: Path) -> None:
    ranks = [Journal(tmp_path, rank=rank) for rank in (0, 1, 0)]  # the last is a second run at the same time
    for i, journal in enumerate(ranks):
        journal.write(f"k{i}", record(i))
    assert sorted(path.name for path in tmp_path.glob("*.jsonl")) == [
        "t.rank0-1.jsonl",
        "t.rank0.jsonl",
        "t.rank1.jsonl",
    ]
    again = Journal(tmp_path)
    assert all(again.find(f"k{i}") == record(i) for i in range(3))


@pytest.mark.parametrize("task", ["../../etc/passwd", "a/b", "..", "", "ä ö", "x" * 300, ".hidden"])
def test_no_task_name_leaves_the_folder(tmp_path: Path, task: str) -> None:
    folder = tmp_path / "journal"
    with Journal(folder) as journal:
        journal.write("k", record(task=task))
    assert [path.parent for path in tmp_path.rglob("*.jsonl")] == [folder]
    assert "/" not in slug(task)
    assert not slug(task).startswith(".")


def test_a_full_disk_ends_the_run_and_keeps_what_was_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal(tmp_path)
    journal.write("kept", record(0))
    real = os.write

    def no_space(descriptor: int, data: bytes) -> int:
        monkeypatch.setattr(
            os, "write", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left"))
        )
        return real(descriptor, data[:10])

    monkeypatch.setattr(os, "write", no_space)
    with pytest.raises(RunError, match=r"No space left.*1 answers written before are kept") as error:
        journal.write("lost", record(1))
    assert isinstance(error.value, SystemExit)
    monkeypatch.undo()
    assert [line["key"] for line in lines(tmp_path)] == ["kept"]
    journal.close()
    with Journal(tmp_path) as again:
        again.write("lost", record(1))
    assert [line["key"] for line in lines(tmp_path)] == ["kept", "lost"]


def test_a_folder_that_is_none_ends_the_run(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match=r"can't keep a journal in .*file"):
        Journal(tmp_path / "file")
    with pytest.raises(RunError, match="can't keep a journal"):
        Journal("/proc/no/such/folder")


def test_answers_under_another_flow_are_told(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        journal.write("k", record(7, flow="path.yaml", flow_digest="d1"))
        assert journal.other_flows("t", 7, "d1") == {}
    again = Journal(tmp_path)
    assert again.other_flows("t", 7, "d2") == {"d1": "path.yaml"}
    assert again.other_flows("t", 8, "d2") == {}


PARTS: dict[str, Any] = {
    "task": "t",
    "document": {"question": "Which way?", "candidates": ["left", "right"]},
    "prompt": "USER: Which way?",
    "videos": [{"path": "/a.mp4", "size": 10, "mtime_ns": 5, "num_frames": 8}],
    "gen_kwargs": {"max_new_tokens": 1},
    "checkpoint": "org/model@main",
    "flow_digest": "d1",
    "runtime": {"engine": "dense", "dtype": "float32"},
}


def test_a_key_changes_with_everything_that_the_answer_depends_on() -> None:
    changes: dict[str, Any] = {
        "task": "u",
        "document": {**PARTS["document"], "candidates": ["right", "left"]},
        "prompt": "USER:  Which way?",
        "videos": [{**PARTS["videos"][0], "mtime_ns": 6}],
        "gen_kwargs": {"max_new_tokens": 2},
        "checkpoint": "org/model@v2",
        "flow_digest": "d2",
        "runtime": {**PARTS["runtime"], "dtype": "bfloat16"},
    }
    assert set(changes) == set(PARTS)
    keys = {sample_key(**{**PARTS, name: value}) for name, value in changes.items()}
    keys |= {sample_key(**PARTS, trace=trace) for trace in ("", "map window=9", "map window=5")}
    assert len(keys) == len(PARTS) + 3


def test_a_key_does_not_depend_on_the_order_of_a_documents_columns() -> None:
    reordered = dict(reversed(PARTS["document"].items()))
    assert sample_key(**{**PARTS, "document": reordered}) == sample_key(**PARTS)


def test_values_that_are_no_json_have_digests() -> None:
    import numpy as np
    from PIL import Image

    image = Image.new("RGB", (2, 2))
    for value in (b"x", np.arange(3), image, {"a": (1, {2, 3})}, Path("x")):
        assert digest(value) == digest(value)
    assert digest(np.arange(3)) != digest(np.arange(4))
    assert digest(image) != digest(Image.new("RGB", (2, 2), "red"))
    assert digest(object()) != digest(object()), "an unknown value must never match"


def test_a_videos_identity_changes_with_the_file(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(b"one")
    before = file_identity(path)
    time.sleep(0.01)
    path.write_bytes(b"two")
    assert file_identity(path) != before
    with pytest.raises(SampleError, match="the video is missing: /"):
        file_identity(tmp_path / "missing.mp4")


@pytest.mark.parametrize("place", [0, 500_000, 999_999])
def test_a_file_that_is_swapped_behind_its_size_and_time_is_another(tmp_path: Path, place: int) -> None:
    path = tmp_path / "clip.mp4"
    content = bytearray(1_000_000)
    path.write_bytes(content)
    os.utime(path, (1, 1))
    before = file_identity(path)
    copied = tmp_path / "copy.mp4"
    shutil.copy2(path, copied)
    assert {**file_identity(copied), "path": ""} == {**before, "path": ""}
    content[place] = 1
    for write in (path.write_bytes, lambda data: copied.write_bytes(data) and copied.replace(path)):
        write(bytes(content))
        os.utime(path, (1, 1))
        assert (path.stat().st_size, path.stat().st_mtime) == (1_000_000, 1)
        assert file_identity(path) != before


def test_half_a_surrogate_pair_in_an_answer_is_kept(tmp_path: Path) -> None:
    record = SampleRecord(id="1", task="t", doc_id=0, status="ok", answer="\ud83d")
    with Journal(tmp_path) as journal:
        journal.write("key", record)
    found = Journal(tmp_path).find("key")
    assert found is not None
    assert found.answer == "\ud83d"


@pytest.mark.parametrize("size", [1, 100, PIECE, 3 * PIECE + 7, 5 * PIECE])
def test_a_files_first_middle_and_last_byte_count(size: int, tmp_path: Path) -> None:
    places = {0, size // 2, size - 1}
    contents = [bytes(size), *(bytes(at) + b"x" + bytes(size - at - 1) for at in sorted(places))]
    pieces = set()
    for number, content in enumerate(contents):
        (tmp_path / f"{number}.mp4").write_bytes(content)
        pieces.add(file_identity(tmp_path / f"{number}.mp4")["pieces"])
    assert len(pieces) == len(contents)


@pytest.mark.parametrize("sign", [1, -1])
def test_whole_numbers_of_a_record_have_64_bits(sign: int) -> None:
    assert fits(sign * (2**63 - 1), int)
    assert fits(sign * (2**63 - 1), float)
    assert not fits(sign * 2**63, int)
    assert not fits(sign * 2**63, float)
    assert not fits(True, int)
    assert not fits(1.5, int)


def test_a_videos_digest_is_the_same_from_release_to_release(tmp_path: Path) -> None:
    """Of a short file the whole, of a long one its beginning, middle and end."""
    (tmp_path / "short.mp4").write_bytes(b"a clip")
    (tmp_path / "long.mp4").write_bytes(bytes(range(256)) * (4 * PIECE // 256))
    assert clip_digest(tmp_path / "short.mp4") == "c3c15c93f50bcbd8"
    assert clip_digest(tmp_path / "long.mp4") == "30ff68de0825e49b"
