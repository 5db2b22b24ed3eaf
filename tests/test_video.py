"""Frames of a video: which ones, and one clear line for every file that has none."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from lmms_flow.errors import SampleError
from lmms_flow.inputs.sampling import SAMPLINGS, clip_bounds, linspace, midpoints, segment_starts
from lmms_flow.inputs.video import read_frames
from tests.support.clips import level, write_clip


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_clip(tmp_path_factory.mktemp("clips") / "moving square.mp4", frames=48, fps=12)


def numbers(pixels: np.ndarray) -> list[int]:
    """Which frame each is, by the brightness of its top rows."""
    means = pixels[:, :6].mean(axis=(1, 2, 3))
    return [int(np.argmin([abs(mean - level(i)) for i in range(24)])) for mean in means]


@pytest.mark.smoke
def test_the_papers_eight_frames_of_a_hundred() -> None:
    # int(start + seg / 2 + round(seg * i)) with seg = 99 / 8
    assert midpoints(0, 99, 8) == (6, 18, 31, 43, 56, 68, 80, 93)


def test_one_frame_is_the_middle_one() -> None:
    assert midpoints(0, 100, 1) == (50,)
    assert midpoints(10, 20, 1) == (15,)


def test_starts_of_segments_one_a_second_at_most() -> None:
    """The paper's frames of LLaVA on LongVideoBench: i * int(total / num)."""
    assert segment_starts(0, 99, 8, fps=10) == (0, 12, 24, 36, 48, 60, 72, 84)
    assert segment_starts(0, 29, 8, fps=10) == (
        0,
        10,
        20,
        20,
        20,
        20,
        20,
        20,
    )  # three seconds, then the last again
    assert segment_starts(0, 4, 8, fps=10) == (0,) * 8  # half a second
    assert segment_starts(40, 99, 4, fps=10) == (40, 55, 70, 85)  # of a clip in a longer video
    assert segment_starts(0, 239, 24, fps=1) == tuple(range(0, 240, 10))
    ten_seconds = segment_starts(0, 299, 10, fps=30000 / 1001)
    assert len(set(ten_seconds)) == 10


def test_evenly_spaced_from_end_to_end() -> None:
    """VideoLLaMA3's."""
    assert linspace(0, 99, 8) == (0, 14, 28, 42, 56, 70, 84, 99)
    assert linspace(10, 20, 3) == (10, 15, 20)
    assert linspace(0, 2, 8) == (0, 0, 0, 0, 1, 1, 1, 2)
    assert linspace(7, 50, 1) == (7,)


@pytest.mark.parametrize("length", [1, 2, 3, 7, 8, 9, 1000])
@pytest.mark.parametrize("num_frames", [1, 2, 8, 16])
@pytest.mark.parametrize("take", [midpoints, linspace, partial(segment_starts, fps=2.5)])
def test_indices_are_in_order_and_in_the_clip(take: Callable[..., Any], length: int, num_frames: int) -> None:
    indices = take(5, 5 + length - 1, num_frames)
    assert len(indices) == num_frames
    assert list(indices) == sorted(indices)
    assert 5 <= indices[0] <= indices[-1] <= 5 + length - 1


@pytest.mark.smoke
def test_pixels_are_of_the_frames_that_the_indices_name(tmp_path: Path) -> None:
    frames = read_frames(write_clip(tmp_path / "clip.mp4", frames=24), 8)
    assert frames.pixels.shape == (8, 64, 96, 3)
    assert frames.pixels.dtype == np.uint8
    assert frames.fps == pytest.approx(12)
    assert numbers(frames.pixels) == list(frames.indices) == [1, 4, 7, 10, 13, 15, 18, 21]
    assert frames.times == pytest.approx([i / 12 for i in frames.indices], abs=1e-3)


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_each_sampling_reads_its_own_frames(sampling: str, tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mp4", frames=24, fps=12)
    expected = {
        "midpoints": midpoints(0, 23, 3),
        "segment_starts": (0, 12, 12),  # two seconds
        "linspace": (0, 11, 23),
    }
    frames = read_frames(path, 3, sampling=sampling)
    assert list(frames.indices) == list(expected[sampling]) == numbers(frames.pixels)
    assert read_frames(path, 1, sampling=sampling).indices == (11,)  # a single frame is the middle one


def test_reading_twice_is_the_same(clip: str) -> None:
    assert np.array_equal(read_frames(clip, 8).pixels, read_frames(clip, 8).pixels)


def test_bounds_in_seconds(clip: str) -> None:
    assert clip_bounds(48, 12, 1.0, 3.0) == (12, 36)
    assert clip_bounds(48, 12, None, 3.0) == (0, 36)
    assert clip_bounds(48, 12, 1.0, None) == (12, 47)
    assert clip_bounds(48, 12, 1.0, 60.0) == (12, 47)  # data sets round up
    frames = read_frames(clip, 4, start=1.0, end=3.0)
    assert frames.indices == midpoints(12, 36, 4)


@pytest.mark.parametrize(
    ("start", "end", "says"),
    [
        (3.0, 1.0, "ends before it starts"),
        (5.0, 6.0, "starts after the video's end at 4 s"),
        (-1.0, 2.0, "has a bound that is no time"),
        (float("nan"), 2.0, "has a bound that is no time"),
    ],
)
def test_bounds_that_are_no_clip(clip: str, start: Any, end: Any, says: str) -> None:
    with pytest.raises(SampleError, match=says) as error:
        read_frames(clip, 8, start=start, end=end)
    assert error.value.path == clip


def test_bounds_without_a_frame_rate() -> None:
    with pytest.raises(SampleError, match="no frame rate"):
        clip_bounds(48, float("nan"), 1.0, 2.0)
    assert clip_bounds(48, float("nan"), None, None) == (0, 47)


def test_a_clip_shorter_than_the_frames_repeats_them(tmp_path: Path) -> None:
    one = read_frames(write_clip(tmp_path / "one.mp4", frames=1), 8)
    assert one.indices == (0,) * 8
    assert read_frames(write_clip(tmp_path / "three.mp4", frames=3), 8).indices == (0, 0, 0, 1, 1, 1, 2, 2)


def missing(folder: Path) -> Path:
    return folder / "missing.mp4"


def a_folder(folder: Path) -> Path:
    return folder


def empty(folder: Path) -> Path:
    (folder / "empty.mp4").touch()
    return folder / "empty.mp4"


def text(folder: Path) -> Path:
    (folder / "text.mp4").write_text("not a video\n" * 500)
    return folder / "text.mp4"


def sound(folder: Path) -> Path:
    with av.open(str(folder / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=16000, layout="mono")
        samples = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        samples.sample_rate = 16000
        for packet in [*stream.encode(samples), *stream.encode()]:
            container.mux(packet)
    return folder / "sound.mp4"


def no_frames(folder: Path) -> Path:
    with av.open(
        str(folder / "none.mp4"), "w", options={"movflags": "frag_keyframe+empty_moov"}
    ) as container:
        stream = container.add_stream("libx264", rate=12)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        container.start_encoding()
    return folder / "none.mp4"


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (missing, "is missing"),
        (a_folder, "is a folder"),
        (empty, "is empty"),
        (text, "not a video"),
        (sound, "no video stream"),
        (no_frames, "has no frames"),
    ],
)
def test_a_file_without_frames_is_one_line_with_its_path(
    make: Callable[..., Any], says: str, tmp_path: Path
) -> None:
    path = make(tmp_path)
    with pytest.raises(SampleError, match=says) as error:
        read_frames(path, 8)
    assert error.value.path == str(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("percent", [1, 10, 30, 50, 70, 80])
@pytest.mark.parametrize("name", ["index last.mp4", "index first.mp4", "clip.mkv", "clip.avi"])
def test_a_truncated_file_is_no_shorter_video(name: str, percent: int, tmp_path: Path) -> None:
    """decord reads Matroska and AVI as far as they go; a model must not be asked about half a video."""
    options = {"movflags": "faststart"} if "first" in name else {}
    codec = "mpeg4" if name.endswith("avi") else "libx264"
    whole = Path(write_clip(tmp_path / name, frames=120, codec=codec, options=options, b_frames=0))
    assert len(read_frames(whole, 8).indices) == 8
    cut = tmp_path / f"cut-{name}"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size * percent // 100])
    with pytest.raises(SampleError, match="truncated") as error:
        read_frames(cut, 8)
    assert error.value.path == str(cut)


def test_damaged_data_is_an_error_or_frames_but_never_a_crash(tmp_path: Path) -> None:
    whole = Path(write_clip(tmp_path / "whole.mp4", frames=60)).read_bytes()
    random = np.random.default_rng(0)
    errors = 0
    for _ in range(30):
        data = bytearray(whole)
        start = int(random.integers(48, len(data) - 300))
        data[start : start + 300] = random.bytes(300)
        (tmp_path / "damaged.mp4").write_bytes(data)
        try:
            assert read_frames(tmp_path / "damaged.mp4", 8).pixels.shape[0] == 8
        except SampleError:
            errors += 1
    assert errors > 0


def test_what_is_no_path_is_named() -> None:
    with pytest.raises(SampleError, match="gives the video as a dict"):
        read_frames({"bytes": b""}, 8)  # type: ignore[arg-type]


def test_a_programmers_mistake_is_no_sample_error(clip: str) -> None:
    with pytest.raises(ValueError, match="at least one frame"):
        read_frames(clip, 0)
    with pytest.raises(ValueError, match="by midpoints, segment_starts, linspace, not by 'random'"):
        read_frames(clip, 8, sampling="random")
