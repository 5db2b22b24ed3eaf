"""Frames to H.264. One thread and fixed settings, so that the same frames give the same bytes."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from scripts.flowbench.specs import FPS

CRF = 20  # constant quality; lower is better


def encode(frames: np.ndarray, path: Path) -> None:
    """uint8 [frame, height, width, 3] to an mp4 file."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.time_base = Fraction(1, FPS)
        stream.codec_context.thread_count = 1
        # With B-frames and lookahead x264 was seen to write other bytes for the same frames.
        stream.options = {"crf": str(CRF), "preset": "medium", "threads": "1", "bf": "0", "rc-lookahead": "0"}
        for number, picture in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format="yuv420p")
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
