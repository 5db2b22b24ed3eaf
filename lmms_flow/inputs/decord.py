"""Reads frames with decord, where demuxing shows that its seeking is safe: it counts packets and believes its index."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lmms_flow.inputs.complaints import Complaints
from lmms_flow.inputs.pyav import OtherFramesError
from lmms_flow.inputs.seeking import seeks
from lmms_flow.inputs.track import Track

NAME = "decord"
LOG_INFO = 32  # "concealing ... errors" is said at this level


def version() -> str:
    """Raises ImportError where it is not installed."""
    try:
        import decord
    except (OSError, RuntimeError) as error:  # a library that it needs is missing or too old
        raise ImportError(str(error)) from None
    return f"{NAME} {decord.__version__}"


def read(
    track: Track, expected: Sequence[int | None], indices: Sequence[int], complaints: Complaints
) -> list[Any]:
    """Decodes some frames of a video track.

    Its table of times and of key frames must be that of demuxing, for all frames, and its decoder must not have
    complained.

    Args:
        track: what demuxing found.
        expected: the times (pts) of all frames, in the order of display.
        indices: the frames that are wanted, in order, each once.
        complaints: what the decoder says of damage.

    Returns:
        RGB arrays [height, width, 3], one an index.

    Raises:
        OtherFramesError: its tables are others, its decoder complained, or it can't read the file.
    """
    import decord

    decord.logging.set_level(LOG_INFO)
    with seeks(track, complaints):
        # One thread: the machine's cores are the model's, and frames don't depend on how many there are.
        reader = decord.VideoReader(str(track.path), ctx=decord.cpu(0), num_threads=1)
        _refuse_another_table(reader, track, expected)
        batch = reader.get_batch(list(indices))
    return list(batch.asnumpy())


def _refuse_another_table(reader: Any, track: Track, expected: Sequence[int | None]) -> None:
    if len(reader) != len(expected):
        raise OtherFramesError(f"it counts {len(reader)} frames of {len(expected)}")
    own = reader.get_frame_timestamp(list(range(len(reader))))[:, 0]
    shown = np.asarray(expected, dtype=np.float64) * track.tick
    # Both may begin elsewhere; float32 has seven digits.
    if np.abs((own - own[0]) - (shown - shown[0])).max() > max(
        track.tick, 2e-7 * float(shown[-1] - shown[0])
    ):
        raise OtherFramesError("its frames stand at other times")
    keys = [place for place, packet in enumerate(track.packets) if packet.is_key]
    if list(reader.get_key_indices()) != keys:
        raise OtherFramesError("its key frames are others")
