"""Video files of every kind that is at hand: the frame that a player shows at the index, or an error that says why.

Frames carry their number as bars (scripts.videos.coded), so that another frame can't hide.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from lmms_flow.errors import SampleError
from lmms_flow.inputs.video import read_frames
from scripts.videos.coded import as_played, copy, encode, image, number
from scripts.videos.kinds import KINDS, READ, REFUSED, Kind
from scripts.videos.readings import as_meant, judge


def test_the_bars_tell_every_number() -> None:
    assert [number(image(index)) for index in (0, 1, 500, 1023)] == [0, 1, 500, 1023]
    assert number(image(300, 48, 80)) == 300


@pytest.mark.parametrize("kind", KINDS, ids=[kind.name for kind in KINDS])
def test_a_kind_is_read_right_or_refused_by_name(kind: Kind, tmp_path: Path) -> None:
    if not kind.can_be_made:
        pytest.skip("ffmpeg is not installed; PyAV can't write this one")
    outcome = judge(kind.write(tmp_path), upright=kind.upright)
    assert as_meant(kind, outcome), outcome.text


SAFE = ("h264-b2.mp4", "h264-pyramid-gop.mp4", "late-start.mp4", "vp9.webm", "h264-b2.mkv", "two-rates.mp4")
UNSAFE = (
    "cut-h264-7s.mp4",
    "h264-open-gop.mp4",
    "h264-refresh-gop.mkv",
    "h264-b2.ts",
    "mirrored.mp4",
    "recorder.webm",
)


@pytest.mark.parametrize("name", SAFE + UNSAFE)
@pytest.mark.parametrize("reader", ["decord", "pyav"])
def test_a_reader_that_is_named_is_right_or_says_that_it_can_not(
    name: str, reader: str, tmp_path: Path
) -> None:
    if reader == "decord":
        pytest.importorskip("decord")
    kind = next(kind for kind in KINDS if kind.name == name)
    outcome = judge(kind.write(tmp_path), reader, upright=kind.upright)
    assert outcome.is_right, outcome.text
    if reader == "pyav" or name in SAFE:
        assert outcome.text == "read"
        assert outcome.reader == reader
    else:
        assert "video safely" in outcome.text
        assert "reader=pyav does" in outcome.text


@pytest.mark.parametrize("seconds", [0.5, 2.0, 2.05, 5.5, 7.95])
@pytest.mark.parametrize("gop", [12, 24, 250])
def test_a_copied_cut_begins_where_a_player_begins(seconds: float, gop: int, tmp_path: Path) -> None:
    """As `ffmpeg -ss SECONDS -c copy` makes them: packets before the cut are there, and an edit list hides them."""
    whole = encode(tmp_path / "whole.mp4", frames=192, gop=gop, options={"x264-params": "scenecut=0"})
    key, last = int(seconds * 12) // gop * gop, int(seconds * 12) + 90
    cut = copy(whole, tmp_path / "cut.mp4", lambda place, packet: key <= place < last, shift=-seconds)
    played = list(as_played(cut))
    for sampling in ("midpoints", "linspace"):
        frames = read_frames(cut, 8, sampling=sampling)
        assert [number(picture) for picture in frames.pixels] == [played[index] for index in frames.indices]
        assert list(frames.times) == sorted(frames.times)
    hidden = len(range(key, min(last, 192))) - len(played)
    if hidden > 0:
        assert f"{hidden} packets of the video are not shown" in frames.notes[0]


@pytest.mark.parametrize(("end", "start"), [("mp4", 0.0), ("mkv", 0.0), ("mkv", 10.0), ("mp4", 3.0)])
def test_bounds_of_a_variable_frame_rate_are_times(end: str, start: float, tmp_path: Path) -> None:
    """48 frames at 12 a second, then 48 at 4 a second: by the average rate of 6, second 4 would be frame 24."""
    times = [start + (i / 12 if i < 48 else 4 + (i - 48) / 4) for i in range(96)]
    path = encode(tmp_path / f"clip.{end}", times=times)
    frames = read_frames(path, 8, start=4.0, end=8.0)
    shown = [number(picture) for picture in frames.pixels]
    assert list(frames.indices) == shown
    assert shown == [49, 51, 53, 55, 57, 59, 61, 63]
    assert frames.times == pytest.approx([4 + (i - 48) / 4 for i in shown], abs=2e-3)
    assert "variable frame rate: frames are taken by time; by the average rate they are" in frames.notes[0]
    assert read_frames(path, 8).notes == (), "without bounds the paper's loader counts the same frames"


def test_bounds_of_a_constant_frame_rate_are_the_papers(tmp_path: Path) -> None:
    for end in ("mp4", "mkv"):
        frames = read_frames(encode(tmp_path / f"clip.{end}"), 4, start=1.0, end=3.0)
        assert frames.indices == (15, 21, 27, 33)
        assert frames.notes == ()


@pytest.mark.parametrize(
    "name", ["hole.mp4", "noise.mp4", "zeros.mp4", "hole-hevc.mp4", "bytes-taken-out.ts"]
)
@pytest.mark.parametrize("reader", ["auto", "pyav"])
def test_damage_is_told_by_every_reader(name: str, reader: str, tmp_path: Path) -> None:
    kind = next(kind for kind in KINDS if kind.name == name)
    assert kind.end == REFUSED
    outcome = judge(kind.write(tmp_path), reader)
    assert as_meant(kind, outcome), outcome.text


def test_damage_behind_an_entry_point_does_not_spoil_the_frames_before_it(tmp_path: Path) -> None:
    path = encode(
        tmp_path / "clip.mp4", frames=240, options={"x264-params": "keyint=24:min-keyint=24:scenecut=0"}
    )
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 300] = bytes(300)
    path.write_bytes(data)
    frames = read_frames(path, 8, start=0.0, end=5.0)
    assert [number(picture) for picture in frames.pixels] == list(frames.indices)
    with pytest.raises(SampleError, match="the video is damaged at frame"):
        read_frames(path, 64)


NAMES = (
    "with space.mp4",
    "ünï ✓ 日本.mp4",
    "a%20b%d.mp4",
    "-dash.mp4",
    "quo'te\"s.mp4",
    "semi;colon,comma.mp4",
    "UPPER.MP4",
    "no_extension",
    "file:colon.mp4",
    "new\nline.mp4",
    # What FFmpeg would take for something else than a file:
    "pipe:0",
    "concat:a.mp4|b.mp4",
    "http:clip.mp4",
    "data:video,clip.mp4",
)


@pytest.mark.parametrize("reader", ["auto", "pyav"])
def test_a_name_is_a_name(reader: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here, and with the whole path; one that is missing is told in one line."""
    made = encode(tmp_path / "clip.mp4")
    monkeypatch.chdir(tmp_path)
    for name in NAMES:
        with pytest.raises(SampleError, match="the video is missing: .") as error:
            read_frames(name, 8, reader=reader)
        assert "\n" not in str(error.value)
        Path(name).write_bytes(made.read_bytes())
        for path in (name, tmp_path / name):
            frames = read_frames(path, 8, reader=reader)
            assert [number(picture) for picture in frames.pixels] == list(frames.indices), name


@pytest.mark.parametrize("count", [1, 2, 3, 7])
@pytest.mark.parametrize("end", ["mp4", "mkv", "avi"])
def test_a_few_frames(count: int, end: str, tmp_path: Path) -> None:
    how = {"codec": "mpeg4", "b_frames": 0} if end == "avi" else {}
    path = encode(tmp_path / f"clip.{end}", frames=count, **how)  # type: ignore[arg-type]
    for sampling in ("midpoints", "linspace", "segment_starts"):
        frames = read_frames(path, 8, sampling=sampling)
        assert max(frames.indices) < count
        assert [number(picture) for picture in frames.pixels] == list(frames.indices)


@pytest.mark.parametrize("first", ["cover", "sound", "film"])
def test_what_is_beside_the_film(first: str, tmp_path: Path) -> None:
    """A cover picture, and sound that goes on for a minute; whichever stands first in the file."""
    film = encode(tmp_path / "film.mp4")
    with av.open(str(film)) as read, av.open(str(tmp_path / "all.mp4"), "w") as write:
        streams: dict[str, Any] = {}
        for name in sorted(("cover", "sound", "film"), key=lambda name: name != first):
            if name == "film":
                streams[name] = write.add_stream_from_template(read.streams.video[0])
            elif name == "sound":
                streams[name] = write.add_stream("aac", rate=48000, layout="mono")
            else:
                streams[name] = write.add_stream("png", rate=1)
                streams[name].width, streams[name].height, streams[name].pix_fmt = 160, 64, "rgb24"
                streams[name].disposition = av.stream.Disposition.attached_pic.value
        for packet in read.demux(read.streams.video[0]):
            if packet.size:
                packet.stream = streams["film"]
                write.mux(packet)
        picture = av.VideoFrame.from_ndarray(image(777), format="rgb24")
        write.mux([*streams["cover"].encode(picture), *streams["cover"].encode()])
        for second in range(60):
            silence = av.AudioFrame.from_ndarray(
                np.zeros((1, 48000), np.float32), format="fltp", layout="mono"
            )
            silence.sample_rate, silence.pts = 48000, 48000 * second
            write.mux(streams["sound"].encode(silence))
        write.mux(streams["sound"].encode())
    frames = read_frames(tmp_path / "all.mp4", 8)
    assert frames.indices == read_frames(film, 8).indices
    assert [number(picture) for picture in frames.pixels] == list(frames.indices)


def test_there_are_enough_kinds() -> None:
    assert len({kind.name for kind in KINDS}) == len(KINDS) >= 60
    assert sum(kind.end == READ for kind in KINDS) >= 60


ROOT = Path(__file__).parents[1]
WAYS = ("decord's random access", "ours, decord", "ours, PyAV")


@pytest.mark.skipif(not (ROOT / "docs").exists(), reason="an installed package has no docs")
def test_the_docs_give_the_benchmarks_figures() -> None:
    """Each row of the table of costs: a video, and seconds (with their ratio to the first) by each way."""
    measured = json.loads((ROOT / "benchmarks/results/video.json").read_text())["seconds"]
    section = (ROOT / "docs/videos.md").read_text().partition("## What it costs")[2].partition("\n## ")[0]
    printed = {}
    for video, cells in re.findall(r"^\| (\d[^|]*) \| (.*) \|$", section, re.MULTILINE):
        for way, cell in zip(WAYS, cells.split(" | "), strict=True):
            found = re.fullmatch(r"([\d.]+)(?: \(x ([\d.]+)\))?", cell)
            assert found is not None, cell
            seconds, ratio = found.groups(default="1.0")
            printed[video, way] = (float(seconds), float(ratio))
    expected = {
        (video, way): (round(times["processor"], 2), times["ratio"])
        for video, ways in measured.items()
        for way, times in ways.items()
    }
    assert printed == expected
