"""Small made clips: a square that moves over a background whose brightness tells the frame's number."""

from __future__ import annotations

import os

import av
import numpy as np


def write_clip(
    path: str | os.PathLike[str],
    *,
    frames: int = 24,
    size: tuple[int, int] = (64, 96),
    fps: int = 12,
    seed: int = 0,
    codec: str = "libx264",
    options: dict[str, str] | None = None,
    b_frames: int = 2,
) -> str:
    """Writes ``frames`` frames of ``size`` (height, width); the same seed is the same clip. Returns the path.

    The top eight rows of frame i are grey of brightness ``level(i)``.
    """
    height, width = size
    random = np.random.default_rng(seed)
    top, left = (int(random.integers(10, side - 16)) for side in size)
    colour = random.integers(80, 256, 3)
    with av.open(os.fspath(path), "w", options=options or {}) as container:
        stream = container.add_stream(codec, rate=fps)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.gop_size = 12
        stream.codec_context.max_b_frames = b_frames
        stream.codec_context.thread_count = 1
        for index in range(frames):
            image = np.full((height, width, 3), 20, np.uint8)
            x = (left + 2 * index) % (width - 16)
            image[top : top + 16, x : x + 16] = colour
            image[:8] = level(index)
            for packet in stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return os.fspath(path)


def level(index: int) -> int:
    """Brightness of the top rows of frame ``index``."""
    return 16 + (index * 9) % 224
