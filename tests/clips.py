"""Small clips with known contents, written with PyAV."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np


def write_clip(
    path: Path, frames: int = 24, size: tuple[int, int] = (64, 64), fps: int = 8, seed: int = 0
) -> Path:
    """A square that moves over a plain background, as H.264 (yuv420p). `size` is (width, height)."""
    width, height = size
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps, options={"preset": "ultrafast", "crf": "18"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for picture in moving_square(frames, width, height, seed):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path


def moving_square(frames: int, width: int, height: int, seed: int) -> np.ndarray:
    """Pictures [frame, row, column, channel]; the seed picks the colours, the ends of the way and the size."""
    random = np.random.default_rng(seed)
    background, colour = random.integers(0, 120, 3), random.integers(140, 256, 3)
    side = min(width, height) // int(random.integers(3, 6))
    ends = random.integers(0, [[width - side, height - side]] * 2)
    pictures = np.empty((frames, height, width, 3), np.uint8)
    pictures[:] = background
    for frame, (x, y) in enumerate(np.linspace(ends[0], ends[1], frames).round().astype(int)):
        pictures[frame, y : y + side, x : x + side] = colour
    return pictures
