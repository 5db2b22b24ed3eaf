"""What a reader that seeks by itself is held to: a file in which seeking is safe, a decoder without complaints."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from lmms_flow.inputs.complaints import Complaints, in_short
from lmms_flow.inputs.pyav import OtherFramesError, is_turned
from lmms_flow.inputs.track import Track


@contextmanager
def seeks(track: Track, complaints: Complaints) -> Iterator[None]:
    """Inside the block another library reads frames of the track.

    Args:
        track: what demuxing found.
        complaints: what decoders say of damage; they are looked at behind the block.

    Raises:
        OtherFramesError: seeking is not safe here, or the library can't read the file or says that it is damaged.
    """
    if track.why_not_landed:
        raise OtherFramesError(f"it seeks, and seeking is not safe here: {track.why_not_landed}")
    if is_turned(track):
        raise OtherFramesError("it does not know of all ways in which frames are shown turned or mirrored")
    complaints.forget()
    try:
        yield
    except OtherFramesError:
        raise
    except Exception as error:  # decord raises types of its own, RuntimeError, IndexError and AssertionError
        raise OtherFramesError(f"it says: {in_short(error, track.path)}") from None
    if said := complaints.of_damage():
        raise OtherFramesError(f"its decoder says: {said}")
