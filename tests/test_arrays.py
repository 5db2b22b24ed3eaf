"""Arrays of traced samples: written whole or not at all, served only whole, refused where they are something else."""

from __future__ import annotations

import errno
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lmms_flow.errors import RecordError, RunError
from lmms_flow.records.arrays import Arrays, are_whole, place_of, read_arrays
from lmms_flow.records.journal import Journal, read_journal
from lmms_flow.records.record import SampleRecord


def some(seed: int = 0) -> Arrays:
    drawn = np.random.default_rng(seed)
    values: dict[str, Any] = {
        "map.probability": drawn.random((2, 3), dtype=np.float32),
        "map.prediction": np.arange(6, dtype=np.int32).reshape(2, 3),
        "attention.last.tokens": drawn.random((4, 5)).astype(np.float16),
    }
    return Arrays(values, {"window": 3, "knockouts": ["cross_frame", "video:last"]})


def record(doc_id: int = 0) -> SampleRecord:
    return SampleRecord(
        id=str(doc_id), task="a task/map", doc_id=doc_id, status="ok", trace='{"kinds":["map"]}'
    )


def kept(folder: Path, key: str = "key", arrays: Arrays | None = None) -> SampleRecord:
    with Journal(folder) as journal:
        return journal.write(key, record(), arrays or some())


def test_they_are_read_as_they_were_written(tmp_path: Path) -> None:
    written = kept(tmp_path)
    assert written.arrays == "arrays/a-task-map/key.safetensors"
    assert written.shapes == {
        "attention.last.tokens": (4, 5),
        "map.prediction": (2, 3),
        "map.probability": (2, 3),
    }
    read = read_arrays(tmp_path, written)
    assert read.about == some().about
    for name, value in some().values.items():
        assert read.values[name].dtype == value.dtype
        assert np.array_equal(read.values[name], value)
    assert SampleRecord.from_json(written.to_json()) == written


def test_the_same_arrays_are_the_same_bytes() -> None:
    arrays = some()
    turned = Arrays(dict(reversed(list(arrays.values.items()))), dict(reversed(list(arrays.about.items()))))
    assert turned.to_bytes() == arrays.to_bytes()
    assert some(1).to_bytes() != arrays.to_bytes()


def test_a_view_is_written_as_what_it_shows() -> None:
    """safetensors writes the memory behind a transposed array as it lies there."""
    turned = Arrays({"a": np.arange(6, dtype=np.float32).reshape(2, 3).T})
    plain = Arrays({"a": np.ascontiguousarray(np.arange(6, dtype=np.float32).reshape(2, 3).T)})
    assert turned.to_bytes() == plain.to_bytes()


def test_the_journal_serves_a_sample_only_with_its_arrays(tmp_path: Path) -> None:
    written = kept(tmp_path)
    with Journal(tmp_path) as journal:
        assert journal.find("key") == written
    file = tmp_path / written.arrays
    whole = file.read_bytes()
    for damaged in (whole[:-1], whole + b"x", whole[:40], b"", b"\xff" * len(whole)):
        file.write_bytes(damaged)
        assert not are_whole(tmp_path, written)
        with Journal(tmp_path) as journal:
            assert journal.find("key") is None
    file.unlink()
    with Journal(tmp_path) as journal:
        assert journal.find("key") is None
        assert journal.write("key", record(), some()) == written, "it is traced again"
        assert journal.find("key") == written


def test_a_file_with_other_arrays_is_not_served(tmp_path: Path) -> None:
    written = kept(tmp_path)
    other = kept(tmp_path, "other", Arrays({"map.probability": np.zeros((2, 4), np.float32)}, {}))
    shutil.copy(tmp_path / other.arrays, tmp_path / written.arrays)
    assert not are_whole(tmp_path, written)
    with pytest.raises(RecordError, match=r"it holds map.probability \[2, 4\], and its record names"):
        read_arrays(tmp_path, written)


def test_numbers_of_an_unknown_kind_are_not_served(tmp_path: Path) -> None:
    """One array among known ones."""
    written = kept(tmp_path)
    file = tmp_path / written.arrays
    file.write_bytes(file.read_bytes().replace(b'"dtype":"I32"', b'"dtype":"X32"'))
    assert not are_whole(tmp_path, written)


NO_OBJECT: Any = ["no object"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "the arrays of task a task/map, document 0 are gone; run it again"),
        (b"not safetensors at all", "the arrays can't be read"),
        (
            Arrays({"a": np.zeros(3, np.float32)}, NO_OBJECT).to_bytes(),
            "does not say what its arrays are",
        ),
    ],
)
def test_what_can_not_be_read_names_the_file(tmp_path: Path, content: bytes | None, says: str) -> None:
    written = kept(tmp_path)
    file = tmp_path / written.arrays
    file.unlink()
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(RecordError, match=says) as caught:
        read_arrays(tmp_path, written)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "place",
    [
        "/etc/passwd",
        "../outside.safetensors",
        "arrays/../../outside.safetensors",
        "arrays/../outside.safetensors",
        "elsewhere/t/key.safetensors",
        "arrays/t/key.pt",
        "arrays\\t\\key.safetensors",
        "arrays/key.safetensors",
    ],
)
def test_no_path_leaves_its_folder(tmp_path: Path, place: str) -> None:
    folder = tmp_path / "records"
    written = replace(kept(folder), arrays=place)
    shutil.copy(folder / "arrays/a-task-map/key.safetensors", tmp_path / "outside.safetensors")
    assert not are_whole(folder, written)
    with pytest.raises(RecordError, match="no place in the folder arrays|lie outside of their folder"):
        read_arrays(folder, written)


def test_no_link_leaves_it_either(tmp_path: Path) -> None:
    folder = tmp_path / "records"
    written = kept(folder)
    outside = tmp_path / "outside.safetensors"
    os.replace(folder / written.arrays, outside)
    (folder / written.arrays).symlink_to(outside)
    assert not are_whole(folder, written)
    for there in (True, False):
        with pytest.raises(RecordError, match="lie outside of their folder"):
            read_arrays(folder, written)
        if there:
            outside.unlink()  # where nothing is yet, nothing is written either


def test_a_full_disk_is_one_line_and_nothing_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = kept(tmp_path)

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with Journal(tmp_path) as journal:
        journal.write("second", record(1), some(1))
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            with pytest.raises(
                RunError, match="No space left on device; the 1 answers written before are kept"
            ):
                journal.write("third", record(2), some(2))
    with Journal(tmp_path) as journal:
        assert journal.find("key") == first
        assert journal.find("second") is not None
        assert journal.find("third") is None
    left = sorted(path.name for path in (tmp_path / "arrays").rglob("*") if path.is_file())
    assert left == ["key.safetensors", "second.safetensors"]


@pytest.mark.parametrize("steps", [(1, 2, 4), (3, 3, 3), (5, 1, 2), (6, 7, 2)])
def test_a_run_that_is_killed_three_times_leaves_the_same_bytes(
    tmp_path: Path, steps: tuple[int, ...]
) -> None:
    """Killed at any step between the first byte of an array and the end of its line."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    for doc_id in range(5):
        with Journal(whole) as journal:
            journal.write(f"key{doc_id}", record(doc_id), some(doc_id))
    for step in (*steps, 0):
        child = os.fork()
        if child == 0:
            _go_on(broken, killed_at=step)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status) == bool(step), "it was killed, or came to its end"
    assert contents(broken) == contents(whole)
    assert len(read_journal(broken)) == 5


def _go_on(folder: Path, killed_at: int) -> None:
    """Traces what is not there yet; killed at the n-th flush or renaming of a file."""
    steps = [0]

    def or_die(do: Any) -> Any:
        def step(*args: Any) -> Any:
            steps[0] += 1
            if steps[0] == killed_at:
                os.kill(os.getpid(), signal.SIGKILL)
            return do(*args)

        return step

    os.fsync, os.replace = or_die(os.fsync), or_die(os.replace)
    with Journal(folder) as journal:
        for doc_id in range(5):
            if journal.find(f"key{doc_id}") is None:
                journal.write(f"key{doc_id}", record(doc_id), some(doc_id))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("arrays/*/*")}


def test_what_a_killed_run_left_unfinished_is_written_over(tmp_path: Path, monkeypatch: Any) -> None:
    """And two runs that write at the same time have each a file of its own for that."""
    seen = []
    replaced = os.replace
    monkeypatch.setattr(os, "replace", lambda a, b: (seen.append(Path(a).name), replaced(a, b))[1])
    with Journal(tmp_path) as one, Journal(tmp_path) as other:
        one.write("a", record(), some())
        other.write("b", record(1), some(1))
    kept(tmp_path, "c")
    assert seen == ["a-task-map.rank0.part", "a-task-map.rank0-1.part", "a-task-map.rank0.part"]
    assert place_of("t", "k") == "arrays/t/k.safetensors"
