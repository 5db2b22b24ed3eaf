"""Reads frames with torchcodec, where the user has installed it: it tells the time of every frame that it returns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lmms_flow.inputs.complaints import Complaints
from lmms_flow.inputs.pyav import OtherFramesError
from lmms_flow.inputs.seeking import seeks
from lmms_flow.inputs.track import Track

NAME = "torchcodec"


def version() -> str:
    """Raises ImportError where it is not installed, or finds no FFmpeg."""
    try:
        import torchcodec
        from torchcodec.decoders import VideoDecoder  # noqa: F401
    except (RuntimeError, OSError) as error:  # no FFmpeg that it knows
        raise ImportError(f"torchcodec can't be loaded ({str(error).strip().splitlines()[0]})") from None
    return f"{NAME} {torchcodec.__version__}"


def read(
    track: Track, expected: Sequence[int | None], indices: Sequence[int], complaints: Complaints
) -> list[Any]:
    """Decodes some frames of a video track.

    Args:
        track: what demuxing found.
        expected: the times (pts) of all frames, in the order of display.
        indices: the frames that are wanted, in order, each once.
        complaints: what the decoder says of damage.

    Returns:
        RGB arrays [height, width, 3], one an index.

    Raises:
        OtherFramesError: it counts other frames than demuxing, shows them at other times, or can't read them.
    """
    from torchcodec.decoders import VideoDecoder

    with seeks(track, complaints):
        decoder = VideoDecoder(
            str(track.path), dimension_order="NHWC", num_ffmpeg_threads=1, seek_mode="exact"
        )
        if len(decoder) != len(expected):
            raise OtherFramesError(f"it counts {len(decoder)} frames of {len(expected)}")
        batch = decoder.get_frames_at(list(indices))
    asked = np.array([expected[index] for index in indices], dtype=np.float64) * track.tick
    if np.abs(batch.pts_seconds.numpy() - asked).max() > track.tick / 2:
        raise OtherFramesError("its frames stand at other times than those that were asked for")
    return list(batch.data.numpy())
