"""Where decoding may begin, by the packets themselves; and how H.264 counts its pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av
import pytest

from lmms_flow.inputs.bitstream import Bits, H264Counter, is_entry_point
from scripts.videos.coded import encode

HEVC = "keyint=24:min-keyint=24:scenecut=0:open-gop=0:log-level=none"
X264 = "bframes=2:keyint=24:min-keyint=24:scenecut=0"


def packets(path: Path) -> tuple[str, bytes | None, list[av.Packet]]:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        kept = [packet for packet in container.demux(stream) if packet.size]
        context = stream.codec_context
        codec, extradata = context.codec.canonical_name, context.extradata
    return codec, extradata, kept


@pytest.mark.parametrize(
    ("name", "how", "entries"),
    [
        ("clip.mp4", {"options": {"x264-params": X264}}, 4),
        ("clip.ts", {"options": {"x264-params": X264}}, 4),  # start codes instead of lengths
        ("open.mp4", {"options": {"x264-params": X264 + ":open-gop=1"}}, 1),
        ("clip.webm", {"codec": "libvpx-vp9", "b_frames": 0, "options": {"b": "400k", "cpu-used": "8"}}, 4),
        ("clip.mkv", {"codec": "libvpx", "b_frames": 0, "options": {"b": "400k", "auto-alt-ref": "0"}}, 4),
        ("av1.mp4", {"codec": "libsvtav1", "b_frames": 0, "options": {"preset": "12"}}, 4),
        ("prores.mov", {"codec": "prores_ks", "b_frames": 0, "pix_fmt": "yuv422p10le", "frames": 4}, 4),
        ("mpeg4.mov", {"codec": "mpeg4", "b_frames": 0}, 4),
        (
            "mpeg2.ts",
            {"codec": "mpeg2video", "b_frames": 0, "options": {"g": "24", "sc_threshold": "1000000000"}},
            4,
        ),
        ("hevc.mp4", {"codec": "libx265", "b_frames": 0, "options": {"x265-params": HEVC}}, 4),
        ("mjpeg.avi", {"codec": "mjpeg", "pix_fmt": "yuvj420p", "b_frames": 0, "frames": 4}, 4),
        ("ffv1.mkv", {"codec": "ffv1", "b_frames": 0, "frames": 4}, 0),  # not known: decoded in order
    ],
)
def test_entry_points(name: str, how: dict[str, Any], entries: int, tmp_path: Path) -> None:
    codec, extradata, found = packets(encode(tmp_path / name, **how))
    points = [place for place, packet in enumerate(found) if is_entry_point(codec, bytes(packet), extradata)]
    assert len(points) == entries
    assert all(found[place].is_keyframe for place in points)
    assert not is_entry_point(codec, b"", extradata) or codec in ("prores", "mjpeg")


@pytest.mark.parametrize("end", ["mp4", "ts"])
@pytest.mark.parametrize("b_frames", [0, 2])
def test_h264_counts_in_the_order_of_display(end: str, b_frames: int, tmp_path: Path) -> None:
    path = encode(
        tmp_path / f"clip.{end}", options={"x264-params": X264.replace("bframes=2", f"bframes={b_frames}")}
    )
    _, extradata, found = packets(path)
    counter = H264Counter.of(extradata, bytes(found[0]))
    assert counter is not None
    assert bool(counter.order_bits) == bool(b_frames)  # without B frames x264 does not write the order
    numbers = [counter.number(bytes(packet)) for packet in found]
    assert all(numbers)
    first = [number for number in numbers[:24] if number]
    assert [is_new for is_new, _, _ in first] == [True] + 23 * [False]
    if b_frames:
        by_time = sorted(zip([packet.pts for packet in found[:24]], first, strict=True))
        assert [order for _, (_, _, order) in by_time] == [2 * place % counter.modulus for place in range(24)]
    else:
        assert [frame for _, frame, _ in first] == [place % counter.modulus for place in range(24)]


def test_bits() -> None:
    bits = Bits(bytes([0b10100110, 0b01000000]))
    assert [bits.unsigned() for _ in range(3)] == [0, 1, 2]
    assert bits.take(4) == 0b0010
    with pytest.raises(ValueError, match="Exp-Golomb"):
        Bits(b"").unsigned()


def vp9(bits: str) -> bytes:
    return int(bits.ljust(8, "0"), 2).to_bytes(1, "big")


@pytest.mark.parametrize(
    ("packet", "is_entry"),
    [
        (vp9("10 00 0 0 1".replace(" ", "")), True),
        (vp9("10 00 0 1 1".replace(" ", "")), False),  # frame type
        (vp9("10 00 1 0 1".replace(" ", "")), False),  # shows a frame again
        (vp9("10 10 0 0 1".replace(" ", "")), True),  # profiles 1 and 2 have no bit more, 3 has one
        (vp9("10 01 0 0 1".replace(" ", "")), True),
        (vp9("10 11 0 0 0 1".replace(" ", "")), True),
        (vp9("10 11 1 0 0 1".replace(" ", "")), True),
        (vp9("10 11 0 0 1".replace(" ", "")), False),
        (vp9("10 11 0 1 0".replace(" ", "")), False),
        (vp9("11 00 0 0".replace(" ", "")), False),  # no frame marker
        (vp9("00 00 0 0".replace(" ", "")), False),
        (b"", False),
    ],
)
def test_headers_of_vp9(packet: bytes, is_entry: bool) -> None:
    assert is_entry_point("vp9", packet, None) is is_entry


HEADER, STILL = b"\x0a\x01\x00", b"\x0a\x01\x18"  # a sequence header of one byte
KEY, SHOWN_AGAIN, INTER = b"\x32\x01\x10", b"\x32\x01\x90", b"\x32\x01\x30"


@pytest.mark.parametrize(
    ("packet", "is_entry"),
    [
        (HEADER + KEY, True),
        (b"\x12\x00" + HEADER + KEY, True),  # a delimiter before
        (HEADER + b"\x36\x00\x01\x10", True),  # with the byte of an extension
        (HEADER + b"\x30\x10", True),  # the last one, which does not say its size
        (HEADER + b"\x32\x81\x00\x10", True),  # a size in two bytes
        (HEADER + b"\x1a\x01\x10", True),  # a frame header by itself
        (HEADER + b"\x32\x01\x00", False),  # not shown
        (KEY, False),
        (STILL + KEY, False),
        (HEADER + SHOWN_AGAIN, False),
        (HEADER + INTER, False),
        (HEADER + INTER + KEY, False),
        (HEADER, False),
        (HEADER + b"\x32\x01", False),
        (b"\x0a", False),
        (b"\x0a\x01", False),
        (b"", False),
    ],
)
def test_headers_of_av1(packet: bytes, is_entry: bool) -> None:
    assert is_entry_point("av1", packet, None) is is_entry


@pytest.mark.parametrize("codec", ["mpeg1video", "mpeg2video"])
def test_headers_of_mpeg(codec: str) -> None:
    start = b"\x00\x00\x01\x00"
    assert is_entry_point(codec, b"\x00\x00\x01\xb3" + start + b"\x00\x08", None)  # an I picture
    assert not is_entry_point(codec, start + b"\x00\x10", None)  # a P picture
    assert not is_entry_point(codec, start + b"\x00\x18", None)  # a B picture
    assert is_entry_point(codec, start + b"\xff\xcf", None)  # what stands beside the kind is no part of it
    assert not is_entry_point(codec, start + b"\x00", None)
    assert not is_entry_point(codec, b"\x00\x00\x01\xb3", None)


def test_headers_of_mpeg4() -> None:
    start = b"\x00\x00\x01\xb6"
    assert is_entry_point("mpeg4", b"\x00\x00\x01\xb0" + start + b"\x10", None)
    assert not is_entry_point("mpeg4", start + b"\x50", None)
    assert not is_entry_point("mpeg4", start, None)
    assert not is_entry_point("h263", start + b"\x10", None)
