"""The bundled benchmark: what is asked, that neither text nor a single frame answers it, and that scripts remake it."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from functools import cache
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import av
import numpy as np
import pytest

from lmms_flow.assets import flowbench_dir
from lmms_flow.inputs.video import read_frames
from scripts.flow_tiny.data import Stream, random_clip
from scripts.flow_tiny.text import build_tokenizer
from scripts.flowbench.build import build
from scripts.flowbench.groups import all_groups
from scripts.flowbench.questions import FAMILIES, LETTERS
from scripts.flowbench.render import RGB, render
from scripts.flowbench.specs import NUM_FRAMES

KEYS = {"id", "video", "question", "candidates", "answer", "answer_letter", "pair", "family"}
MEGABYTE = 2**20


@cache
def load(family: str) -> tuple[dict[str, Any], ...]:
    text = (flowbench_dir() / f"{family}.jsonl").read_text(encoding="utf-8")
    return tuple(json.loads(line) for line in text.splitlines())


def group_of(row: dict[str, Any]) -> str:
    return row["id"].rpartition("-")[0]


def groups(family: str) -> list[list[dict[str, Any]]]:
    found = defaultdict(list)
    for row in load(family):
        found[group_of(row)].append(row)
    return list(found.values())


def read(row: dict[str, Any], frames: list[int] | range = range(NUM_FRAMES)) -> np.ndarray:
    """Decoded frames: int [frame, height, width, channel]."""
    with av.open(str(flowbench_dir() / row["video"])) as container:
        decoded = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return np.stack([decoded[index] for index in frames]).astype(int)


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_are_whole(family: str) -> None:
    rows = load(family)
    assert len(rows) >= 100
    for row in rows:
        assert set(row) == KEYS
        assert row["family"] == family
        assert (flowbench_dir() / row["video"]).is_file()
        assert len(set(row["candidates"])) == len(row["candidates"]) in (2, 3, 4)
        assert row["candidates"][LETTERS.index(row["answer_letter"])] == row["answer"]


def test_ids_and_clips_are_unique_and_none_is_left_over() -> None:
    rows = [row for family in FAMILIES for row in load(family)]
    assert len({row["id"] for row in rows}) == len(rows)
    shipped = {f"clips/{path.name}" for path in (flowbench_dir() / "clips").iterdir()}
    assert {row["video"] for row in rows} == shipped


def test_it_is_small() -> None:
    assert sum(path.stat().st_size for path in flowbench_dir().rglob("*") if path.is_file()) < 5 * MEGABYTE


def test_questions_vary() -> None:
    sizes = Counter(len(row["candidates"]) for family in FAMILIES for row in load(family))
    assert set(sizes) == {2, 3, 4}
    for family in FAMILIES:
        assert len({row["question"] for row in load(family)}) >= 4
        assert len({len(row["candidates"]) for row in load(family)}) >= 2


@pytest.mark.parametrize("family", FAMILIES)
def test_text_alone_is_exactly_at_chance(family: str) -> None:
    """Within one text each candidate, and so each letter, is right equally often: no rule does better."""
    assert len(groups(family)) > 5
    for group in groups(family):
        assert len({(row["question"], *row["candidates"]) for row in group}) == 1
        right = Counter(row["answer_letter"] for row in group)
        assert right == dict.fromkeys(LETTERS[: len(group[0]["candidates"])], len(group) // len(right))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_middle_frame_is_exactly_at_chance(family: str) -> None:
    """Clips that share a text share their middle frames too, so whoever sees one of them knows the text alone."""
    some = groups(family)[:12]
    assert len(some) > 5
    for group in some:
        middles = np.stack([read(row, [13, 15, 16, 17]) for row in group])
        assert abs(middles - middles[:1]).mean(axis=(2, 3, 4)).max() < 1.5
        assert abs(middles - middles[:1]).max() < 60  # a trace of the codec, no shape


@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "object_count"])
def test_counterparts_are_the_same_clip_backwards_with_another_answer(family: str) -> None:
    rows = {row["id"]: row for row in load(family)}
    assert len(rows) > 50
    for row in rows.values():
        other = rows[row["pair"]]
        assert other["pair"] == row["id"]
        assert (other["question"], other["candidates"]) == (row["question"], row["candidates"])
        assert other["answer"] != row["answer"]
    for row in list(rows.values())[::10]:
        there, back = read(row), read(rows[row["pair"]])[::-1]
        assert abs(there - back).mean() < 3
        assert abs(there - read(rows[row["pair"]])).mean() > abs(there - back).mean()


def test_counting_has_no_counterparts() -> None:
    assert {row["pair"] for row in load("object_count")} == {None}


def centre(frame: np.ndarray) -> np.ndarray:
    """(x, y) of what stands out from the corner's colour."""
    return np.argwhere(abs(frame - frame[0, 0]).sum(2) > 120).mean(axis=0)[::-1]


def test_moving_direction_is_told_as_the_pixels_have_it() -> None:
    words = {(-1, 0): "left", (1, 0): "right", (0, -1): "up|top", (0, 1): "down|bottom"}
    rows = load("moving_direction")[::3]
    assert len(rows) > 20
    for row in rows:
        first, last = read(row, [0, NUM_FRAMES - 1])
        step = np.sign(np.round((centre(last) - centre(first)) / 30)).astype(int)
        assert any(word in row["answer"].lower() for word in words[tuple(step)].split("|")), row["id"]


def test_growing_and_shrinking_are_told_as_the_pixels_have_it() -> None:
    checked = 0
    for row in load("action_antonym"):
        grows = any(word in row["answer"].lower() for word in ("grow", "bigger"))
        shrinks = any(word in row["answer"].lower() for word in ("shrink", "smaller"))
        if grows or shrinks:
            first, last = ((abs(f - f[0, 0]).sum(2) > 120).sum() for f in read(row, [0, NUM_FRAMES - 1]))
            assert (last > 2 * first, first > 2 * last) == (grows, shrinks), row["id"]
            checked += 1
    assert checked > 10


def colours_shown(row: dict[str, Any]) -> list[str]:
    """The colours of a parade in their order, read off the decoded frames, one at a time."""
    seen = []
    for frame in read(row, range(2, NUM_FRAMES, 4)):
        distance = {name: abs(frame - np.array(rgb)).sum(2) for name, rgb in RGB.items()}
        areas = {name: int((d < 90).sum()) for name, d in distance.items()}
        visible = [name for name, area in areas.items() if area > 200]
        assert len(visible) <= 1, f"{row['id']}: {areas}"
        seen += visible
    return list(dict.fromkeys(seen))


def test_sequences_and_counts_are_told_as_the_pixels_have_it() -> None:
    words = {"1": 1, "2": 2, "3": 3, "4": 4, "one": 1, "two": 2, "three": 3, "four": 4}
    counts, sequences = load("object_count")[::4], load("action_sequence")[::4]
    assert min(len(counts), len(sequences)) > 15
    for row in counts:
        assert words[row["answer"].lower().rstrip(".").split()[-1]] == len(colours_shown(row)), row["id"]
    for row in sequences:
        late = any(word in row["question"] for word in ("last", "end"))
        assert colours_shown(row)[-1 if late else 0] in row["answer"].lower(), row["id"]


def test_the_scripts_write_the_same_bytes_twice_and_the_shipped_questions(tmp_path: Path) -> None:
    for name in ("once", "again"):
        build(tmp_path / name, limit=3)
    files = sorted(p.relative_to(tmp_path / "once") for p in (tmp_path / "once").rglob("*") if p.is_file())
    assert len(files) > 40
    for file in files:
        assert (tmp_path / "once" / file).read_bytes() == (tmp_path / "again" / file).read_bytes(), file
    for family in FAMILIES:
        made = (tmp_path / "once" / f"{family}.jsonl").read_text(encoding="utf-8")
        assert (flowbench_dir() / f"{family}.jsonl").read_text(encoding="utf-8").startswith(made)


def test_shipped_clips_are_the_scripts_own(tmp_path: Path) -> None:
    """Byte for byte where the encoder is the one that made them, and to the eye anywhere."""
    build(tmp_path, limit=2)
    clips = sorted((tmp_path / "clips").iterdir())
    assert len(clips) > 20
    for path in clips:
        shipped = flowbench_dir() / "clips" / path.name
        if encoder(path.read_bytes()) == encoder(shipped.read_bytes()):
            assert path.read_bytes() == shipped.read_bytes(), path.name
        else:
            mine, theirs = (read_frames(clip, 8).pixels.astype(int) for clip in (path, shipped))
            assert abs(mine - theirs).mean() < 4, path.name


def encoder(mp4: bytes) -> bytes:
    """What x264 writes into the stream about itself, and the muxer's name."""
    x264 = mp4[mp4.find(b"x264 - core") :][:40]
    return x264 + mp4[mp4.find(b"Lavf") :][:16]


@pytest.mark.parametrize("family", FAMILIES)
def test_shipped_frames_are_the_rendered_ones(family: str) -> None:
    clips = [c for name, number, group in all_groups() if name == family and number < 3 for c in group.clips]
    assert len(clips) > 5
    for row, clip in zip(load(family)[: len(clips)], clips, strict=True):
        assert abs(read(row) - render(clip).astype(int)).mean() < 4, row["id"]


def test_training_draws_no_clip_of_the_benchmark() -> None:
    """By value, over a whole training; a draw without the guard would hit some."""
    stream = Stream(build_tokenizer())
    benchmark = {clip for _, _, group in all_groups() for clip in group.clips}
    steps = range(5000)
    assert not any(clip in benchmark for step in steps for clip in stream.clip_specs(step))
    unguarded = (random_clip(Random(f"elsewhere:{n}")) for n in range(40_000))
    assert any(clip in benchmark for clip in unguarded)


def test_different_clips_have_different_frames() -> None:
    """So that kept apart by value is kept apart by pixels."""
    stream = Stream(build_tokenizer())
    benchmark = {clip for _, _, group in all_groups() for clip in group.clips}
    clips = {clip for step in range(25) for clip in stream.clip_specs(step)} | benchmark
    pictures = sorted(render(clip).tobytes() for clip in clips)
    assert len(pictures) > 300
    assert all(a != b for a, b in pairwise(pictures))
