"""Clips whose frames carry their number as ten black and white bars: a frame that is another one can't hide."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.bitstream import BitStreamFilterContext

BITS = 10
HEIGHT, WIDTH = 64, 160
FPS = 12


def image(index: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """Bars above, and a red square that moves below: uint8 RGB [height, width, 3]."""
    picture = np.full((height, width, 3), 60, np.uint8)
    for bit in range(BITS):
        left, right = bit * width // BITS, (bit + 1) * width // BITS
        picture[: height // 2, left:right] = 235 if index >> (BITS - 1 - bit) & 1 else 16
    left = 5 * index % (width - 12)
    picture[height // 2 + 8 : height // 2 + 20, left : left + 12] = (220, 40, 40)
    return picture


def number(picture: np.ndarray) -> int:
    """The number that an upright frame shows."""
    height, width = picture.shape[:2]
    top = picture[2 : height // 2 - 2].astype(float).mean(axis=(0, 2))
    found = 0
    for bit in range(BITS):
        left, right = bit * width / BITS, (bit + 1) * width / BITS
        middle = top[round(left + 0.3 * (right - left)) : round(right - 0.3 * (right - left))]
        found = 2 * found + int(middle.mean() > 125)
    return found


@contextlib.contextmanager
def same_priority() -> Iterator[None]:
    """Behind the block this thread is scheduled as before it: SVT-AV1 makes a superuser's thread a real-time one.

    Such a thread, and what it starts, runs before everything else on the machine.
    """
    if not hasattr(os, "sched_getscheduler"):
        yield
        return
    policy, parameters = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        yield
    finally:
        os.sched_setscheduler(0, policy, parameters)


def encode(
    path: str | os.PathLike[str],
    codec: str = "libx264",
    *,
    frames: int = 96,
    fps: int = FPS,
    gop: int = 24,
    b_frames: int = 2,
    pix_fmt: str = "yuv420p",
    size: tuple[int, int] = (HEIGHT, WIDTH),
    start: float = 0.0,
    times: Iterable[float] | None = None,
    options: Mapping[str, str] | None = None,
    muxer: Mapping[str, str] | None = None,
    container_format: str | None = None,
) -> Path:
    """Writes frames 0, 1, ... with PyAV, at ``times`` (seconds) or ``fps`` a second from ``start`` on."""
    tick = Fraction(1, 1000 * fps) if times is not None or start else Fraction(1, fps)
    with (
        same_priority(),
        av.open(os.fspath(path), "w", format=container_format, options=dict(muxer or {})) as container,
    ):
        stream = container.add_stream(codec, rate=fps, options=dict(options or {}))
        assert isinstance(stream, av.VideoStream)
        stream.height, stream.width = size
        stream.pix_fmt = pix_fmt
        stream.time_base = stream.codec_context.time_base = tick
        stream.codec_context.gop_size = gop
        stream.codec_context.thread_count = 1
        if b_frames:
            stream.codec_context.max_b_frames = b_frames
        shown = list(times) if times is not None else [start + index / fps for index in range(frames)]
        for index, second in enumerate(shown):
            frame = av.VideoFrame.from_ndarray(image(index, *size), format="rgb24")
            frame.pts, frame.time_base = round(second / tick), tick
            for packet in stream.encode(frame):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return Path(path)


def copy(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    keep: Callable[[int, av.Packet], bool] = lambda place, packet: True,
    shift: float = 0.0,
    muxer: Mapping[str, str] | None = None,
    tags: Mapping[str, str] | None = None,
) -> Path:
    """Copies the packets that are kept, ``shift`` seconds later."""
    with (
        av.open(os.fspath(source)) as read,
        av.open(os.fspath(target), "w", options=dict(muxer or {})) as write,
    ):
        stream = read.streams.video[0]
        out = write.add_stream_from_template(stream)
        out.metadata.update(tags or {})
        # AVI takes H.264 with start codes alone, and its muxer does not see to it.
        filtered = (
            BitStreamFilterContext("h264_mp4toannexb", stream) if Path(target).suffix == ".avi" else None
        )
        for place, packet in enumerate(packet for packet in read.demux(stream) if packet.size):
            if keep(place, packet):
                offset = round(Fraction(shift) / packet.time_base) if shift else 0
                for name in ("pts", "dts"):
                    if (time := getattr(packet, name)) is not None:
                        setattr(packet, name, time + offset)
                for one in filtered.filter(packet) if filtered else [packet]:
                    one.stream = out
                    write.mux(one)
    return Path(target)


def as_played(path: str | os.PathLike[str]) -> Iterator[int]:
    """The numbers that a player shows, frame after frame: an independent reading, without any index."""
    with av.open(os.fspath(path)) as container:
        for frame in container.decode(container.streams.best("video")):
            assert isinstance(frame, av.VideoFrame)
            yield number(frame.to_ndarray(format="rgb24"))
