"""Which frames are taken of which clip, and which times VideoLLaMA3's prompt names, against the rules as they are."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from lmms_flow.errors import SampleError
from lmms_flow.inputs.clock import Clock, printed, read_clock, shown_times
from lmms_flow.inputs.sampling import frame_indices
from lmms_flow.inputs.video import read_frames
from tests.support.clips import write_clip

RATES = (5.0, 12.0, 23.976023976023978, 24.0, 25.0, 29.97002997002997, 30.0, 59.94005994005994, 7.3)


def naive_midpoints(length: int, fps: float, start: float | None, end: float | None) -> list[int]:
    """LLaVA and InternVL: 8 segments of the frames from round(start * fps) to round(end * fps)."""
    first = 0 if start is None else round(start * fps)
    last = length - 1 if end is None else min(round(end * fps), length - 1)
    size = (last - first) / 8
    return [int(first + size / 2 + round(size * i)) for i in range(8)]


def naive_linspace(length: int, fps: float, start: float | None, end: float | None) -> list[int]:
    """VideoLLaMA3: 8 of the frames whose times lie in [start, end); of less than a second, by frame numbers."""
    if start is not None and end is not None and end - start < 1:
        end = start + 1 if end == start else end
        kept = [i for i in range(length) if int(start * fps) - 1 <= i <= int(end * fps) - 1]
    else:
        kept = [
            i for i in range(length) if (start is None or i >= start * fps) and (end is None or i < end * fps)
        ]
    return [kept[int(step * (len(kept) - 1) / 7)] for step in range(8)] if kept else []


def naive_starts(length: int, duration: float) -> list[int]:
    """LLaVA on LongVideoBench: one frame a second of the row's duration, at most 8, the last one repeated."""
    num = min(8, int(duration))
    taken = [i * int(length / num) for i in range(num)]
    return taken + [taken[-1]] * (8 - num)


def random_clip(random: np.random.Generator) -> tuple[int, float, float | None, float | None]:
    fps = float(random.choice(RATES))
    length = int(random.integers(1, 1500))
    seconds = length / fps
    kind = random.integers(8)
    start = float(random.uniform(0, seconds * 1.05)) if kind else None
    end = None if kind == 1 else float((start or 0) + random.exponential(seconds / 3))
    if kind == 2 and start is not None:
        end = start  # a clip of no length
    if kind == 3 and start is not None and end is not None:
        start, end = round(start, 1), max(round(end, 1), round(start, 1))
    if kind == 4:  # the last frames
        start = float((length - 1 + random.uniform(-1, 1)) / fps)
        start = max(start, 0.0)
        end = start + float(random.uniform(0, 3))
    return length, fps, start, end


@pytest.mark.parametrize(
    ("sampling", "naive"), [("midpoints", naive_midpoints), ("linspace", naive_linspace)]
)
def test_10_000_clips_with_bounds(sampling: str, naive: Callable[..., list[int]]) -> None:
    random = np.random.default_rng(7)
    refused = 0
    for _ in range(10_000):
        length, fps, start, end = random_clip(random)
        expected = naive(length, fps, start, end)
        if not expected or not all(0 <= index < length for index in expected):
            refused += 1
            with pytest.raises(SampleError, match="starts after the video's end|has no frame"):
                frame_indices(sampling, 8, length, fps, start, end)
        else:
            found = frame_indices(sampling, 8, length, fps, start, end)
            assert list(found) == expected, (length, fps, start, end)
    assert 100 < refused < 2_000


def test_10_000_videos_by_the_second() -> None:
    random = np.random.default_rng(8)
    for _ in range(10_000):
        length, fps = int(random.integers(8, 100_000)), float(random.choice(RATES))
        duration = max(float(length / fps + random.normal()), 1.0)  # a row's is not quite the file's
        assert list(frame_indices("segment_starts", 8, length, fps, duration=duration)) == naive_starts(
            length, duration
        )


def test_the_rows_duration_counts_and_not_the_files() -> None:
    assert frame_indices("segment_starts", 8, 100, 10.0) == (0, 12, 24, 36, 48, 60, 72, 84)
    assert frame_indices("segment_starts", 8, 100, 10.0, duration=2.9) == (0, *[50] * 7)
    assert frame_indices("segment_starts", 8, 100, 10.0, duration=0.4) == (0,) * 8
    assert frame_indices("segment_starts", 8, 100, math.nan, duration=3.0) == (0, 33, *[66] * 6)


def test_a_quotient_that_lies_a_hair_below_whole_seconds() -> None:
    assert 33 / 1.1 < 30
    assert frame_indices("segment_starts", 40, 33, 1.1) == (*range(30), *[29] * 10)


def test_a_clip_of_no_length_and_one_that_starts_in_the_last_half_frame() -> None:
    assert frame_indices("midpoints", 8, 100, 10.0, 3.0, 3.0) == (30,) * 8
    assert frame_indices("midpoints", 8, 100, 10.0, 9.96, 12.0) == (*[99] * 5, *[98] * 3)
    assert frame_indices("midpoints", 1, 100, 10.0, 9.96, 12.0) == (99,)
    assert frame_indices("segment_starts", 8, 100, 10.0, 9.96, 12.0) == (99,) * 8
    assert frame_indices("linspace", 8, 100, 10.0, 3.0, 3.0) == (29, 30, 31, 33, 34, 36, 37, 39)


def test_a_clip_of_videollama3_ends_before_its_end() -> None:
    assert frame_indices("linspace", 2, 100, 10.0, 1.0, 3.0) == (10, 29)
    assert frame_indices("linspace", 2, 100, 10.0, 1.01, 3.01) == (11, 30)
    assert frame_indices("linspace", 2, 100, 10.0, 1.0, 1.9) == (9, 18)  # less than a second
    assert frame_indices("linspace", 2, 100, 10.0, 0.0, 0.5) == (0, 4)
    with pytest.raises(SampleError, match=r"from 0 s to 0.1 s has no frame"):
        frame_indices("linspace", 2, 10, 5.0, 0.0, 0.1)


@pytest.mark.parametrize(
    "bounds", [(3.0, 1.0), (-1.0, 2.0), (math.nan, 2.0), (1.0, math.nan), (math.inf, None)]
)
@pytest.mark.parametrize("sampling", ["midpoints", "linspace", "segment_starts"])
def test_bounds_that_are_no_clip(sampling: str, bounds: tuple[float | None, float | None]) -> None:
    with pytest.raises(SampleError, match="the clip from"):
        frame_indices(sampling, 8, 100, 10.0, *bounds)


def test_an_endless_clip_has_no_end() -> None:
    for sampling in ("midpoints", "linspace"):
        assert frame_indices(sampling, 8, 100, 10.0, 1.0, math.inf) == frame_indices(
            sampling, 8, 100, 10.0, 1.0
        )


# The times that VideoLLaMA3's prompt names


def naive_times(
    length: int, fps: float, duration: float, begin: float, start: float | None, end: float | None
) -> list[float]:
    """The seconds of every frame of the clip."""
    if start is None:
        start = begin
    else:
        moved = max(begin, start)
        duration -= moved - start
        start = moved
    if end is not None:
        duration = min(duration, end - start)
    return [float(second) for second in np.linspace(start, start + duration, length)]


def test_times_are_spread_over_the_containers_duration() -> None:
    random, checked = np.random.default_rng(9), 0
    for _ in range(3_000):
        length, fps, start, end = random_clip(random)
        clock = Clock(float(length / fps * random.uniform(0.9, 1.5)), float(random.choice([0.0, 0.007, 1.4])))
        try:
            taken = frame_indices("linspace", 8, length, fps, start, end)
        except SampleError:
            continue
        found = shown_times(taken, length, fps, clock, start, end)
        if start is not None and end is not None and end - start < 1:
            assert found == tuple(index / fps for index in taken)
            continue
        first, last = taken[0], taken[-1]
        times = naive_times(last - first + 1, fps, clock.duration, clock.begin, start, end)
        assert found == pytest.approx([times[index - first] for index in taken], abs=1e-9)
        checked += 1
    assert checked > 1_000


def test_times_are_rounded_as_numpy_does() -> None:
    """Half goes to the even digit, by ten times the number: 0.35 is 3.5 tenths, and so is not what Python prints."""
    halves = [0.05, 0.15, 0.25, 0.35, 0.45, 1.25, 2.75, 100.05]
    assert [printed(second) for second in halves] == [
        "0.0",
        "0.2",
        "0.2",
        "0.4",
        "0.4",
        "1.2",
        "2.8",
        "100.0",
    ]
    for second in np.linspace(0, 60, 999):
        assert printed(second) == str(round(np.float64(second), 1))


@pytest.fixture
def with_sound(tmp_path: Path) -> Path:
    """Two seconds of video, three of sound."""
    file = tmp_path / "sound.mp4"
    with av.open(str(file), "w") as container:
        video, sound = container.add_stream("libx264", rate=12), container.add_stream("aac", rate=16000)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        for index in range(24):
            image = np.full((48, 64, 3), 8 * index, np.uint8)
            container.mux(video.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(video.encode())
        for index in range(48):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1000), np.float32), format="fltp", layout="mono")
            frame.rate, frame.pts, frame.time_base = 16000, 1000 * index, Fraction(1, 16000)
            container.mux(sound.encode(frame))
        container.mux(sound.encode())
    return file


def test_sound_that_is_longer_than_the_video_stretches_the_times(with_sound: Path) -> None:
    clock = read_clock(with_sound)
    assert clock is not None
    with av.open(with_sound) as opened:
        packets = [packet for packet in opened.demux(audio=0) if packet.pts is not None]
        ends = [
            (packet.pts + (packet.duration or 0)) * packet.time_base
            for packet in packets
            if packet.pts is not None
        ]
    assert clock.duration == pytest.approx(float(max(ends)), abs=1e-3)
    assert clock.duration > 2.9
    frames = read_frames(with_sound, 8, sampling="linspace")
    assert frames.indices == (0, 3, 6, 9, 13, 16, 19, 23)
    assert frames.shown == pytest.approx(np.linspace(0, clock.duration, 24)[list(frames.indices)].tolist())
    assert read_frames(with_sound, 8).shown == ()
    part = read_frames(with_sound, 3, start=0.5, end=1.5, sampling="linspace")
    assert part.indices == (6, 11, 17)
    assert part.shown == pytest.approx((0.5, 0.5 + 5 / 11, 1.5))


def test_a_file_that_states_no_duration_has_no_clock(tmp_path: Path) -> None:
    file = tmp_path / "raw.h264"
    with av.open(write_clip(tmp_path / "clip.mp4")) as source, av.open(str(file), "w", format="h264") as raw:
        stream = raw.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                raw.mux(packet)
    assert read_clock(file) is None
