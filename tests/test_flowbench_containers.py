"""The bundled benchmark in other containers: the frames, and so the accuracy, are those of the MP4s."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from lmms_flow import assets
from lmms_flow.inputs.video import read_frames
from scripts.videos.flowbench import CONTAINERS, SCRIPT, accuracy, convert, score
from scripts.videos.pages import DOCS, written

FAMILY = ("moving_direction",)
LOSSY = {"GIF": 32}  # levels of brightness on average: it has 256 colours, and dots of them


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("num_frames", [1, 8])
def test_the_same_frames_come_out_of_every_container(container: str, num_frames: int, tmp_path: Path) -> None:
    folder = convert(tmp_path / "bench", container, FAMILY, limit=3)
    plain = (assets.flowbench_dir() / "moving_direction.jsonl").read_text().splitlines()
    other = (folder / "moving_direction.jsonl").read_text().splitlines()
    assert len(other) > 2
    for one, made in zip(map(json.loads, plain[: len(other)]), map(json.loads, other), strict=True):
        original = read_frames(assets.flowbench_dir() / one["video"], num_frames)
        frames = read_frames(folder / made["video"], num_frames)
        assert frames.indices == original.indices
        difference = np.abs(frames.pixels.astype(int) - original.pixels).mean()
        assert difference <= LOSSY.get(container, 0)


@pytest.mark.skipif(not DOCS.exists(), reason="an installed package has no docs")
def test_the_docs_tell_of_each_container_and_of_one_accuracy() -> None:
    rows = [line.strip("| ").split(" | ") for line in written(SCRIPT).splitlines()[2:]]
    assert [row[0] for row in rows] == ["MP4", *CONTAINERS]
    assert {row[1] for row in rows if row[2] == "0"} == {rows[0][1]}


@pytest.mark.host
@pytest.mark.parametrize("container", ["MPEG-TS", "cut MP4"])
def test_the_accuracy_is_that_of_the_mp4s(container: str, tmp_path: Path) -> None:
    plain = score(None, FAMILY, limit=4)
    found = score(convert(tmp_path / "bench", container, FAMILY, limit=4), FAMILY, limit=4)
    assert accuracy(found) == accuracy(plain)
    records = [one.record for one in found]
    assert [record.answer for record in records] == [one.record.answer for one in plain]
    assert all(record.reader.startswith("pyav") for record in records), "decord would seek"
    hidden = "packets of the video are not shown"
    assert all((hidden in " ".join(record.notes)) == (container == "cut MP4") for record in records)
