"""The video stream of a file, undecoded: the times of its frames, what is hidden, where decoding may begin."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import av

SEEKABLE = frozenset(
    {"mov", "mp4", "m4a", "3gp", "3g2", "mj2", "matroska", "webm"}
)  # have an index of key frames


class Packet(NamedTuple):
    """A packet of the video stream, times in units of the stream's time base."""

    pts: int | None
    dts: int | None
    duration: int
    is_key: bool
    is_hidden: bool  # decoded, but not shown


@dataclass(frozen=True, eq=False)
class Track:
    """The video stream of a file, undecoded.

    ``packets`` are in decoding order; ``entries`` are the times (pts) of the key frames at which decoding may begin;
    ``rate`` is the container's average frame rate (nan where it states none).
    """

    path: Path
    formats: frozenset[str]
    codec: str
    tick: float  # seconds
    rate: float
    packets: Sequence[Packet]
    entries: frozenset[int | None]

    @cached_property
    def shown(self) -> tuple[int, ...] | None:
        """The times (pts) of the frames in the order of display; None where packets don't tell."""
        times = [packet.pts for packet in self.packets if not packet.is_hidden]
        if None in times or len(set(times)) < len(times) or not times:
            return None
        return tuple(sorted(time for time in times if time is not None))

    @property
    def num_hidden(self) -> int:
        """How many packets hold a picture that is not shown."""
        return sum(packet.is_hidden for packet in self.packets)

    @cached_property
    def why_in_order(self) -> str:
        """Why this file has to be decoded from its start on; empty where seeking is safe."""
        if not self.formats & SEEKABLE:
            return f"{'/'.join(sorted(self.formats))} has no index of its key frames"
        if self.shown is None:
            return "not every packet has a time of its own"
        if self.num_hidden:
            return f"{self.num_hidden} packets are decoded and not shown (an edit list)"
        keys = [place for place, packet in enumerate(self.packets) if packet.is_key]
        if not keys or keys[0] != 0:
            return "it does not begin with a key frame"
        if any(self.packets[place].pts not in self.entries for place in keys):
            return "a key frame of it is no entry point (an open group of pictures)"
        earliest = math.inf
        for packet in reversed(self.packets):
            assert packet.pts is not None
            if packet.is_key and earliest < packet.pts:
                return "frames behind a key frame are shown before it (an open group of pictures)"
            earliest = min(earliest, packet.pts)
        return ""

    @cached_property
    def why_not_landed(self) -> str:
        """Why a seek to a key frame's time may land on another one, for readers that don't tell where they landed.

        In MP4 it lands on the last key frame whose decoding time (dts) is not behind the time that is asked for.
        """
        if self.why_in_order or self.formats & {"matroska", "webm"}:
            return self.why_in_order
        following = math.inf
        for packet in reversed([packet for packet in self.packets if packet.is_key]):
            if packet.dts is None or packet.pts is None or not packet.dts <= packet.pts < following:
                return "decoding times and times of display do not fit"
            following = packet.dts
        return ""


def shown_stream(container: Any) -> Any:
    """The stream that a player shows: not a cover picture."""
    streams = container.streams.video
    films = [s for s in streams if not (s.disposition & av.stream.Disposition.attached_pic)]
    candidates = films or streams
    best = container.streams.best("video")
    return best if best in candidates else candidates[0]
