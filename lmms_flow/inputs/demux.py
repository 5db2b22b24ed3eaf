"""What a video file says of its frames without decoding one: their times, what is hidden, where decoding may begin.

From this it is known how many frames there are and whether seeking is safe. What a file says is checked again when its
frames are decoded.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import av

from lmms_flow.errors import SampleError
from lmms_flow.inputs.bitstream import is_entry_point
from lmms_flow.inputs.complaints import Complaints, in_short, write_errors
from lmms_flow.inputs.container import refuse_truncated
from lmms_flow.inputs.holes import refuse_holes
from lmms_flow.inputs.opening import open_video
from lmms_flow.inputs.track import Packet, Track, shown_stream

SEEKABLE = frozenset(
    {"mov", "mp4", "m4a", "3gp", "3g2", "mj2", "matroska", "webm"}
)  # have an index of key frames
TOLERATED_SHORTFALL = 0.1  # of a stated duration; less is within what muxers get wrong


def read_track(file: Path, complaints: Complaints) -> Track:
    """Demuxes a file.

    Raises SampleError: it is no video, has no frames, ends too early, or has a hole.
    """
    try:
        with open_video(file) as container:
            if not container.streams.video:
                raise SampleError("the file has no video stream", path=file)
            stream = shown_stream(container)
            if stream.disposition & av.stream.Disposition.attached_pic:
                raise SampleError("the file has a cover picture and no video stream", path=file)
            formats = frozenset(container.format.name.split(","))
            refuse_truncated(file, formats)
            codec = codec_name(container, stream)
            extradata = stream.codec_context.extradata
            packets: list[Packet] = []
            entries: set[int | None] = set()
            corrupt, first = 0, b""
            for packet in container.demux(stream):
                if not packet.size:
                    continue
                if not packets:
                    first = bytes(packet)
                hidden = packet.is_discard or (codec == "vp8" and not memoryview(packet)[0] >> 4 & 1)
                corrupt += packet.is_corrupt
                packets.append(
                    Packet(packet.pts, packet.dts, packet.duration or 0, packet.is_keyframe, hidden)
                )
                if packet.is_keyframe and is_entry_point(codec, bytes(packet), extradata):
                    entries.add(packet.pts)
            rate = float(stream.average_rate or math.nan)
            stated = _seconds(stream.metadata.get("DURATION", ""))
            tick = float(stream.time_base or math.nan)
    except (av.error.FFmpegError, OSError, UnicodeError) as error:
        raise unreadable(error, file) from None
    if all(packet.is_hidden for packet in packets):
        raise SampleError("the video has no frames", path=file)
    track = Track(file, formats, codec, tick, rate, packets, frozenset(entries))
    if formats & {"matroska", "webm"}:
        _refuse_short(track, stated)
    if corrupt:
        raise SampleError(f"the video is damaged: {corrupt} of its packets are incomplete", path=file)
    said = complaints.of_damage()
    if said and formats & {"matroska", "webm"}:
        raise SampleError(f"the video is damaged ({said})", path=file)
    refuse_holes(track, extradata, first)
    return track


def codec_name(container: Any, stream: Any) -> str:
    """The codec's own name, not that of a decoder. Raises SampleError, by that name, where nothing here decodes it."""
    if stream.codec_context is not None:
        return str(stream.codec_context.codec.canonical_name)
    av.logging.set_level(
        av.logging.INFO
    )  # PyAV hears what FFmpeg logs of the container, and this alone names the codec
    line = re.search(r"Video: ([^,\n]+)", container.dumps_format())
    write_errors()
    name = line[1].strip() if line else "unknown"
    raise SampleError(f"nothing here decodes the video's codec ({name})", path=container.name)


def unreadable(error: BaseException, file: Path) -> SampleError:
    """Where a file can't be opened or decoded."""
    return SampleError(
        f"the file is not a video, or is damaged or truncated ({in_short(error, file)})", path=file
    )


def _seconds(clock: str) -> float:
    """Seconds of ``00:01:02.5``, as Matroska writes a stream's duration; 0 where it does not."""
    try:
        hours, minutes, seconds = clock.split(":")
        return int(hours) * 3600 + int(minutes) * 60 + float(seconds)
    except ValueError:
        return 0.0


def _refuse_short(track: Track, stated: float) -> None:
    """Matroska states at which time a stream ends."""
    ends = [packet.pts + packet.duration for packet in track.packets if packet.pts is not None]
    found = max(ends, default=0) * track.tick
    if found < stated * (1 - TOLERATED_SHORTFALL):
        line = f"the video is truncated: {found:.2f} of {stated:.2f} s are there"
        raise SampleError(line, path=track.path)
