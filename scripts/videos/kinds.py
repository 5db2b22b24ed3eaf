"""The kinds of files: codecs in containers, and what editing, recording and accidents make of them."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from scripts.videos.coded import FPS, copy, encode

READ, REFUSED = "read", "refused"
X264 = {"bf": "2"}
CLOSED = {"x265-params": "open-gop=0:bframes=2:log-level=none"}
OPEN = {"x265-params": "open-gop=1:bframes=3:keyint=12:min-keyint=12:log-level=none"}


@dataclass(frozen=True)
class Kind:
    """A file of ``name``, made by ``make``. It must be ``READ`` right, or ``REFUSED`` with these ``words``.

    ``needs_ffmpeg``: the program writes what PyAV can't.
    """

    name: str
    group: str
    make: Callable[[Path], Any]
    end: str = READ
    words: str = ""
    needs_ffmpeg: bool = False
    upright: Callable[[np.ndarray], np.ndarray] = (
        np.asarray
    )  # undoes what the file says of how to show its frames

    def write(self, folder: Path) -> Path:
        path = folder / self.name
        self.make(path)
        return path

    @property
    def can_be_made(self) -> bool:
        return not self.needs_ffmpeg or shutil.which("ffmpeg") is not None


def _codecs() -> list[Kind]:
    def kind(name: str, codec: str, **how: Any) -> Kind:
        return Kind(name, "codec and container", partial(encode, codec=codec, **how))

    x265, av1 = {"options": CLOSED}, {"options": {"crf": "40", "preset": "12"}, "b_frames": 0}
    vp8 = {"b_frames": 0, "options": {"b": "400k"}}
    vp9 = {"b_frames": 0, "options": {"b": "400k", "cpu-used": "8"}}
    plain = {"b_frames": 0}
    good = {"options": {"qscale": "2", "flags": "+qscale", "global_quality": "236"}}
    made = [
        kind(f"h264-b{b}.{end}", "libx264", b_frames=b, options={"bf": str(b)})
        for b in (0, 2)
        for end in ("mp4", "mov", "mkv", "avi", "ts", "flv")
    ]
    made += [kind(f"hevc.{end}", "libx265", **x265) for end in ("mp4", "mov", "mkv", "ts")]
    made += [kind(f"av1.{end}", "libsvtav1", **av1) for end in ("mp4", "webm", "mkv")]
    made += [kind(f"vp9.{end}", "libvpx-vp9", **vp9) for end in ("webm", "mp4", "mkv")]
    made += [kind(f"vp8.{end}", "libvpx", **vp8) for end in ("webm", "mkv", "avi")]
    made += [
        kind(f"mpeg4-b{b}.{end}", "mpeg4", b_frames=b, **good)
        for b in (0, 2)
        for end in ("mp4", "avi", "mkv", "mov")
    ]
    made += [kind(f"mpeg2.{end}", "mpeg2video", fps=25, **good) for end in ("ts", "mpg", "mkv")]
    made += [kind("mpeg1.mpg", "mpeg1video", fps=25, **good)]
    made += [kind(f"prores.{end}", "prores_ks", pix_fmt="yuv422p10le", **plain) for end in ("mov", "mkv")]
    made += [kind(f"mjpeg.{end}", "mjpeg", pix_fmt="yuvj420p", **plain) for end in ("avi", "mov", "mkv")]
    made += [kind("ffv1.mkv", "ffv1", **plain), kind("huffyuv.avi", "huffyuv", pix_fmt="yuv422p", **plain)]
    made += [
        kind("h264-444.mp4", "libx264", pix_fmt="yuv444p"),
        kind("h264-full-range.mp4", "libx264", pix_fmt="yuvj420p"),
    ]
    made += [kind("wmv2.wmv", "wmv2", b_frames=0, **good), kind("flv1.flv", "flv", b_frames=0, **good)]
    made += [kind("animated.gif", "gif", fps=10, pix_fmt="rgb8", **plain)]
    made += [kind("png.mov", "png", pix_fmt="rgb24", **plain), kind("raw.avi", "rawvideo", **plain)]
    theora = ("-c:v", "libtheora", "-q:v", "7")
    made += [Kind("theora.ogv", "codec and container", partial(_ffmpeg, args=theora), needs_ffmpeg=True)]
    return made


def _groups_of_pictures() -> list[Kind]:
    def kind(name: str, make: Callable[[Path], Any]) -> Kind:
        return Kind(name, "groups of pictures", make)

    x264 = {
        "open": "open-gop=1:bframes=3:keyint=24:min-keyint=24:scenecut=0",
        "refresh": "intra-refresh=1:bframes=0:keyint=24",
        "pyramid": "bframes=5:b-pyramid=strict:b-adapt=0:keyint=48",
        "long": "keyint=999:bframes=2",
        "every": "keyint=1",
    }
    made = [
        kind(f"h264-{name}-gop.{end}", partial(encode, options={"x264-params": params}, b_frames=0, gop=24))
        for name, params in x264.items()
        for end in (("mp4", "mkv") if name in ("open", "refresh") else ("mp4",))
    ]
    made += [
        kind(f"hevc-open-gop.{end}", partial(encode, codec="libx265", options=OPEN)) for end in ("mp4", "mkv")
    ]
    made += [
        kind(
            "mpeg2-open-gop.mkv",
            partial(
                encode, codec="mpeg2video", fps=25, gop=12, b_frames=2, options={"flags": "-cgop", "b": "3M"}
            ),
        )
    ]
    altref = {"auto-alt-ref": "1", "lag-in-frames": "16", "b": "400k"}
    made += [
        kind(f"{name}-hidden-frames.webm", partial(encode, codec=codec, b_frames=0, options=altref))
        for name, codec in (("vp8", "libvpx"), ("vp9", "libvpx-vp9"))
    ]
    return made


def _cut(path: Path, seconds: float, codec: str = "libx264", length: int = 96, **how: Any) -> None:
    """As `ffmpeg -ss SECONDS -c copy`: from the key frame before, which an edit list hides."""
    whole = encode(path.with_name(f"whole-{path.name}"), codec, frames=192, **how)
    key = int(seconds * FPS) // 24 * 24
    copy(whole, path, keep=lambda place, packet: key <= place < key + length, shift=-seconds)


def _edited() -> list[Kind]:
    def kind(name: str, make: Callable[[Path], Any]) -> Kind:
        return Kind(name, "cut and shifted", make)

    vfr = np.cumsum([1 / 12 if i < 48 else 1 / 4 for i in range(72)]).tolist()
    jumps = [i / 12 + (2 if i >= 40 else 0) + (1 if i >= 60 else 0) for i in range(84)]
    fragments = {"movflags": "frag_keyframe+empty_moov+default_base_moof"}
    made = [
        kind(f"cut-{name}.{end}", partial(_cut, seconds=seconds, **how))
        for name, seconds, end, how in (
            ("h264-7s", 7.77, "mp4", {}),
            ("h264-3s", 3.4, "mov", {}),
            ("h264-no-b", 5.1, "mp4", {"b_frames": 0}),
            ("mpeg4", 3.4, "mp4", {"codec": "mpeg4", "b_frames": 0}),
            ("hevc", 5.1, "mp4", {"codec": "libx265", "options": CLOSED}),
        )
    ]
    made += [kind(f"cut-in-the-middle-of-a-gop.{end}", partial(_headless, start=7)) for end in ("ts", "mkv")]
    made += [kind(f"late-start.{end}", partial(encode, start=10)) for end in ("mkv", "mp4", "ts", "mov")]
    made += [
        kind(
            "late-start.webm",
            partial(encode, codec="libvpx-vp9", start=10, b_frames=0, options={"b": "400k", "cpu-used": "8"}),
        )
    ]
    made += [kind(f"two-rates.{end}", partial(encode, times=vfr)) for end in ("mp4", "mkv")]
    made += [kind(f"still-for-a-while.{end}", partial(encode, times=jumps)) for end in ("mp4", "mkv", "ts")]
    made += [kind("fragmented.mp4", partial(encode, muxer=fragments))]
    made += [
        kind(
            "recorder.webm",
            partial(encode, codec="libvpx", b_frames=0, options={"b": "400k"}, muxer={"live": "1"}),
        )
    ]
    made += [kind("index-first.mp4", partial(encode, muxer={"movflags": "faststart"}))]
    return made


def _turned_kinds() -> list[Kind]:
    made = [
        Kind(f"{name}.mp4", "turned", partial(_turned, matrix=matrix), upright=upright)
        for name, (matrix, upright) in TURNED.items()
    ]
    made += [
        Kind(
            f"turned-{angle}.mkv",
            "turned",
            partial(_remuxed, angle=angle),
            upright=TURNED[f"turned-{angle}"][1],
        )
        for angle in (90, 180, 270)
    ]
    made += [
        Kind("an-old-tag-of-a-turn.mkv", "turned", _tagged),  # no player turns it
        Kind(
            "turned-in-its-bitstream.mp4",
            "turned",
            _turned_inside,
            needs_ffmpeg=True,
            upright=TURNED["turned-180"][1],
        ),
    ]
    return made


TURNED: dict[str, tuple[tuple[int, int, int, int], Callable[[np.ndarray], np.ndarray]]] = {
    "turned-90": ((0, 1, -1, 0), lambda picture: np.rot90(picture, 1)),
    "turned-180": ((-1, 0, 0, -1), lambda picture: np.rot90(picture, 2)),
    "turned-270": ((0, -1, 1, 0), lambda picture: np.rot90(picture, -1)),
    "mirrored": ((-1, 0, 0, 1), lambda picture: picture[:, ::-1]),
    "upside-down": ((1, 0, 0, -1), lambda picture: picture[::-1]),
    "mirrored-and-turned": ((0, 1, 1, 0), lambda picture: picture.transpose(1, 0, 2)),
}


def _headless(path: Path, start: int) -> None:
    whole = encode(path.with_name(f"whole-{path.name}"), frames=120)
    copy(whole, path, keep=lambda place, packet: place >= start)


def _turned(path: Path, matrix: tuple[int, int, int, int]) -> None:
    """Writes the matrix that says how to show the frames into the header, where the muxer put none."""
    data = bytearray(encode(path).read_bytes())
    place = data.index(b"tkhd") + 44
    numbers = [matrix[0] << 16, matrix[1] << 16, 0, matrix[2] << 16, matrix[3] << 16, 0, 0, 0, 1 << 30]
    data[place : place + 36] = np.array(numbers, ">i4").tobytes()
    path.write_bytes(data)


def _remuxed(path: Path, angle: int) -> None:
    """A phone's MP4, its packets copied into Matroska."""
    source = path.with_suffix(".mp4")
    _turned(source, TURNED[f"turned-{angle}"][0])
    copy(source, path)


def _tagged(path: Path) -> None:
    copy(encode(path.with_suffix(".mp4")), path, tags={"rotate": "90"})


def _turned_inside(path: Path) -> None:
    """H.264 says it in its own data, at key frames."""
    by = "h264_metadata=display_orientation=insert:rotate=180"
    _run("-i", encode(path.with_name(f"whole-{path.name}")), "-c", "copy", "-bsf:v", by, path)


def _ffmpeg(path: Path, args: tuple[str, ...]) -> None:
    whole = encode(path.with_name(f"whole-{path.stem}.mkv"), "ffv1", b_frames=0)
    _run("-i", whole, *args, path)


def _run(*args: Any) -> None:
    subprocess.run(["ffmpeg", "-y", "-v", "error", *map(str, args)], check=True)


# Accidents


def _drop(path: Path, first: int, last: int, **how: Any) -> None:
    whole = encode(path.with_name(f"whole-{path.name}"), **how)
    copy(whole, path, keep=lambda place, packet: not first <= place <= last)


def _truncate(path: Path, share: float, **how: Any) -> None:
    encode(path, **how)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])


def _spoil(path: Path, start: float, size: int, with_what: str = "noise", **how: Any) -> None:
    """Overwrites (or, `cut`, takes out) bytes in the middle."""
    data = bytearray(encode(path, gop=96, **how).read_bytes())
    place = int(len(data) * start)
    data[place : place + size] = {
        "noise": np.random.default_rng(0).bytes(size),
        "zeros": bytes(size),
        "cut": b"",
    }[with_what]
    path.write_bytes(data)


def _lose_a_fragment(path: Path) -> None:
    fragments = {"movflags": "frag_keyframe+empty_moov+default_base_moof"}
    data = encode(path, muxer=fragments).read_bytes()
    starts = [place - 4 for place in range(len(data)) if data[place : place + 4] == b"moof"]
    path.write_bytes(data[: starts[1]] + data[starts[2] :])


def _accidents() -> list[Kind]:
    def kind(name: str, make: Callable[[Path], Any], words: str) -> Kind:
        return Kind(name, "damaged", make, REFUSED, words)

    made = [
        kind(f"hole.{end}", partial(_drop, first=30, last=49), "hole|damaged")
        for end in ("mp4", "mkv", "ts", "mov")
    ]
    made += [kind("hole-without-b.mp4", partial(_drop, first=30, last=40, b_frames=0), "hole|damaged")]
    made += [
        kind(
            "hole-hevc.mp4",
            partial(_drop, first=30, last=40, codec="libx265", options=CLOSED),
            "hole|damaged",
        )
    ]
    made += [kind("lost-fragment.mp4", _lose_a_fragment, "hole")]
    made += [
        kind(
            f"truncated-{int(100 * share)}.{end}", partial(_truncate, share=share, **how), "truncated|damaged"
        )
        for share in (0.3, 0.8)
        for end, how in (
            ("mp4", {"muxer": {"movflags": "faststart"}}),
            ("mkv", {}),
            ("avi", {"codec": "mpeg4", "b_frames": 0}),
        )
    ]
    made += [
        kind(f"noise.{end}", partial(_spoil, start=0.3, size=900, frames=240), "damaged|truncated|hole")
        for end in ("mp4", "mkv", "ts")
    ]
    made += [
        kind("zeros.mp4", partial(_spoil, start=0.3, size=900, with_what="zeros", frames=240), "damaged|hole")
    ]
    made += [
        kind(
            f"bytes-taken-out.{end}",
            partial(_spoil, start=0.3, size=1500, with_what="cut", frames=240),
            "damaged|truncated|hole",
        )
        for end in ("mkv", "ts", "mp4")
    ]
    return made


KINDS = [*_codecs(), *_groups_of_pictures(), *_edited(), *_turned_kinds(), *_accidents()]
