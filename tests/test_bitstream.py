"""Where decoding may begin, by the packets themselves; and how H.264 counts its pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av
import pytest

from lmms_flow.inputs.bitstream import Bits, H264Counter, is_entry_point
from scripts.videos.coded import encode

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
        ("ffv1.mkv", {"codec": "ffv1", "b_frames": 0, "frames": 4}, 0),  # not known: decoded in order
    ],
)
def test_entry_points(name: str, how: dict[str, Any], entries: int, tmp_path: Path) -> None:
    codec, extradata, found = packets(encode(tmp_path / name, **how))
    points = [place for place, packet in enumerate(found) if is_entry_point(codec, bytes(packet), extradata)]
    assert len(points) == entries
    assert all(found[place].is_keyframe for place in points)
    assert not is_entry_point(codec, b"", extradata) or codec == "prores"


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
