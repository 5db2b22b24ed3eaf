"""The readers behind one function: the same frames, a record that names the reader, journals that don't mix them."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest
import torch

from lmms_flow.errors import RunError, SampleError
from lmms_flow.inputs.clip import ANY_READER, READERS
from lmms_flow.inputs.video import read_frames
from lmms_flow.records.key import digest, package_versions
from lmms_flow.runner.arguments import read_arguments
from lmms_flow.runner.loaded import LoadedModel
from scripts.videos.coded import encode, image, number
from scripts.videos.kinds import KINDS, Kind


def installed(reader: str, path: Path) -> Any:
    try:
        return read_frames(path, 8, reader=reader)
    except SampleError as error:
        if "is not installed here" not in str(error):
            raise
        pytest.skip(f"{reader} is not installed")


COLOURS: dict[str, dict[str, Any]] = {
    "plain": {},
    "full range": {"pix_fmt": "yuvj420p"},
    "4:4:4": {"pix_fmt": "yuv444p"},
    "ten bits": {"pix_fmt": "yuv420p10le"},
    "BT.709": {"options": {"colorprim": "bt709", "x264-params": "colormatrix=bt709:transfer=bt709"}},
    "odd size": {"size": (66, 162)},
}


@pytest.mark.parametrize("colour", COLOURS)
@pytest.mark.parametrize("reader", ["decord", "torchcodec"])
def test_pixels_and_indices_are_those_of_pyav(colour: str, reader: str, tmp_path: Path) -> None:
    path = encode(tmp_path / "clip.mp4", **COLOURS[colour])
    frames, other = read_frames(path, 8, reader="pyav"), installed(reader, path)
    assert other.reader.startswith(reader)
    assert frames.indices == other.indices
    assert frames.times == other.times
    assert [number(picture) for picture in other.pixels] == list(other.indices)
    assert frames.pixels.shape == other.pixels.shape
    assert np.abs(frames.pixels.astype(int) - other.pixels).mean() < 2


TURNED = [kind for kind in KINDS if kind.group == "turned" and kind.can_be_made]


@pytest.mark.parametrize("kind", TURNED, ids=[kind.name for kind in TURNED])
def test_what_is_turned_is_not_left_to_other_readers(kind: Kind, tmp_path: Path) -> None:
    """decord turns an MP4, not the same packets in Matroska; and by a tag by which no player turns any more."""
    path = kind.write(tmp_path)
    frames = read_frames(path, 8)
    assert frames.reader.startswith("pyav")
    assert [number(kind.upright(picture)) for picture in frames.pixels] == list(frames.indices)
    pytest.importorskip("decord")
    with pytest.raises(SampleError, match="turned or mirrored.*: reader=pyav does"):
        read_frames(path, 8, reader="decord")


def test_a_cover_picture_is_no_video(tmp_path: Path) -> None:
    """A song with its cover."""
    path = tmp_path / "song.m4a"
    with av.open(str(path), "w", format="mp4") as container:
        sound = container.add_stream("aac", rate=48000)
        cover = container.add_stream("png", rate=1)
        cover.width, cover.height, cover.pix_fmt = 160, 64, "rgb24"
        cover.disposition = av.stream.Disposition.attached_pic.value  # type: ignore[assignment]
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 48000), np.float32), format="fltp", layout="mono")
        silence.sample_rate = 48000
        picture = av.VideoFrame.from_ndarray(image(3), format="rgb24")
        container.mux([*cover.encode(picture), *cover.encode(), *sound.encode(silence), *sound.encode()])
    for reader in ("auto", "pyav"):
        with pytest.raises(SampleError, match="the file has a cover picture and no video stream"):
            read_frames(path, 8, reader=reader)


def test_decord_is_first_where_it_is_installed_and_safe(tmp_path: Path) -> None:
    pytest.importorskip("decord")
    assert read_frames(encode(tmp_path / "clip.mp4"), 8).reader == "decord 0.6.0"
    assert read_frames(encode(tmp_path / "clip.ts"), 8).reader.startswith("pyav")


def test_an_av1_clip_is_read_or_its_codec_named(tmp_path: Path) -> None:
    before = os.sched_getscheduler(0)
    path = encode(tmp_path / "clip.mp4", "libsvtav1", b_frames=0, options={"preset": "12"})
    assert os.sched_getscheduler(0) == before, "the encoder's real-time priority would starve the machine"
    assert read_frames(path, 8).reader.startswith("pyav")
    pytest.importorskip("decord")
    with pytest.raises(SampleError, match="decord does not read this av1 video safely .*: reader=pyav does"):
        read_frames(path, 8, reader="decord")


def test_a_codec_that_nothing_decodes_is_named(tmp_path: Path) -> None:
    path = encode(tmp_path / "clip.mp4")
    data = path.read_bytes()
    place = data.rindex(b"avc1")
    path.write_bytes(data[:place] + b"zzzz" + data[place + 4 :])
    with pytest.raises(SampleError, match=r"nothing here decodes the video's codec \(none \(zzzz") as error:
        read_frames(path, 8)
    assert error.value.path == str(path)


def test_an_angle_that_is_no_right_one_is_named(tmp_path: Path) -> None:
    path = encode(tmp_path / "clip.mp4")
    data = bytearray(path.read_bytes())
    place = data.index(b"tkhd") + 44
    slanted = round(0.7071 * 65536)
    data[place : place + 36] = np.array(
        [slanted, slanted, 0, -slanted, slanted, 0, 0, 0, 1 << 30], ">i4"
    ).tobytes()
    path.write_bytes(data)
    with pytest.raises(SampleError, match="stored at an angle of (45|315) degrees"):
        read_frames(path, 8)


def test_arguments() -> None:
    assert read_arguments({}).reader == ANY_READER
    for reader in READERS:
        assert read_arguments({"reader": reader, "video_timeout": "30"}).reader == reader
    assert read_arguments({"video_timeout": 30}).video_timeout == 30
    with pytest.raises(RunError, match="reader=pyva; did you mean 'pyav'"):
        read_arguments({"reader": "pyva"})
    with pytest.raises(RunError, match="video_timeout=0: write a whole number from 1"):
        read_arguments({"video_timeout": 0})


def test_a_journal_tells_readers_apart() -> None:
    """The reader is part of what is asked, and so of the key under which an answer is kept."""
    sample = SimpleNamespace(
        messages=[
            {"role": "user", "content": [{"type": "video", "url": "clip.mp4"}, {"type": "text", "text": "?"}]}
        ],
        videos=lambda: [{"url": "clip.mp4"}],
    )
    clips = []
    for reader in (ANY_READER, *READERS):
        args = read_arguments({"reader": reader})
        nothing: Any = None
        loaded = LoadedModel("name", nothing, args, nothing, torch.device("cpu"), torch.float32)
        clips.append(loaded.clip(sample))  # type: ignore[arg-type]
    assert [clip.reader for clip in clips if clip] == [ANY_READER, *READERS]
    assert len({digest(asdict(clip)) for clip in clips if clip}) == 4
    assert {"decord", "av", "torchcodec"} <= set(package_versions())
