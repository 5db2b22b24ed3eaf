"""Opens a video's file, and no other: some formats are lists of what lies elsewhere."""

from __future__ import annotations

import errno
import os
from functools import cache
from typing import TYPE_CHECKING

import av

from lmms_flow.errors import SampleError

if TYPE_CHECKING:
    from av.container import InputContainer

# Lists of other files and addresses, streams of the network, what records, and what computes.
PLAYLISTS = frozenset({"hls", "applehttp", "concat", "dash", "webm_dash_manifest", "imf", "image2", "vobsub"})
NETWORK = frozenset({"rtp", "rtsp", "sdp", "sap", "mgsts"})
DEVICES = frozenset(
    {"alsa", "fbdev", "kmsgrab", "oss", "x11grab", "xcbgrab", "jack", "pulse", "video4linux2", "v4l2"}
)
SCRIPTS = frozenset({"lavfi", "avisynth", "vapoursynth"})


def open_video(file: str | os.PathLike[str]) -> InputContainer:
    """The container of a file, which is the whole of the video.

    Raises SampleError for a playlist, and else what PyAV raises.
    """
    try:
        # Not `options`: these go to streams as well, and PyAV 15 crashes where a file tells its streams late (FLV).
        return av.open(os.path.abspath(file), container_options=_only_this_file())
    except av.error.FFmpegError as error:
        if error.errno != errno.EINVAL:
            raise
        raise SampleError(
            "the file is damaged, or of a format that is not read, such as a list of other files", path=file
        ) from None


@cache
def _only_this_file() -> dict[str, str]:
    formats = ",".join(sorted(av.formats_available - PLAYLISTS - NETWORK - DEVICES - SCRIPTS))
    return {"format_whitelist": formats, "protocol_whitelist": "file"}
