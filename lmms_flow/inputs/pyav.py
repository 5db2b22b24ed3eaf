"""Reads frames with PyAV: in the order of display, or by seeking where that is safe. Every time is checked."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from fractions import Fraction
from itertools import islice
from typing import Any

import av
import numpy as np

from lmms_flow.errors import SampleError
from lmms_flow.inputs.complaints import Complaints, in_short
from lmms_flow.inputs.demux import unreadable
from lmms_flow.inputs.opening import open_video
from lmms_flow.inputs.track import Track, shown_stream

NAME = "pyav"
AHEAD = 16  # frames that a decoder may be ahead of the one that it returns, at most, when it complains
TICK = Fraction(1, 1000)  # of the graphs that convert colours; they look at one frame after another
# How a frame is turned upright, by the angle (counter-clockwise) at which it is stored. As ffmpeg does it.
UPRIGHT = {
    0: (),
    90: (("transpose", "cclock"),),
    180: (("hflip", ""), ("vflip", "")),
    270: (("transpose", "clock"),),
}


class OtherFramesError(Exception):
    """What is decoded is not what demuxing promised; the words say how."""


def version() -> str:
    """The reader as records name it."""
    return f"{NAME} {av.__version__}"


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
        OtherFramesError: a frame is shown at another time than expected.
        SampleError: a frame is damaged, or was decoded from something damaged.
    """
    if not track.why_in_order:
        with suppress(OtherFramesError):  # a seek landed elsewhere
            return _read(track, expected, _spans(track, expected, indices), set(indices), complaints)
    return _read(track, expected, [(0, indices[-1])], set(indices), complaints)


def _read(
    track: Track,
    expected: Sequence[int | None],
    spans: Sequence[tuple[int, int]],
    wanted: set[int],
    complaints: Complaints,
) -> list[Any]:
    """Decodes the spans, each from one frame to another, and returns the wanted frames."""
    upright = _Upright()
    found: list[Any] = []
    with _opened(track) as (container, stream):
        if spans[0][0]:  # the first frame of a file may say how all are to be turned
            with suppress(av.error.FFmpegError):
                for frame in islice(container.decode(stream), 1):
                    upright.look(frame)
        for start, last in spans:
            if start:
                container.seek(expected[start], stream=stream)
            place = start
            for frame in _decoded(container, stream, track, complaints, wanted, expected, start):
                upright.look(frame)
                if place in wanted:
                    found.append(upright(frame, track))
                place += 1
                if place > last:
                    break
            if place <= last:
                raise OtherFramesError(f"{place} of {len(expected)} frames can be decoded")
    return found


def count(track: Track, complaints: Complaints) -> list[tuple[int | None, float]]:
    """Decodes the whole file: the time (pts, and seconds where there is one) of every frame that is shown."""
    times = []
    with _opened(track) as (container, stream):
        try:
            for frame in container.decode(stream):
                times.append((frame.pts, math.nan if frame.pts is None else frame.pts * track.tick))
        except av.error.FFmpegError as error:
            raise unreadable(error, track.path) from None
    complaints.forget()
    if not times:
        raise SampleError(
            f"no frame of the video can be decoded (its codec is {track.codec})", path=track.path
        )
    return times


def is_turned(track: Track) -> bool:
    """Whether frames are to be shown turned or mirrored, by the first one, or by an old tag that players leave alone.

    Other readers turn by the tag, or by what some containers say and others don't.
    """
    with _opened(track) as (container, stream):
        tags = {name.lower() for name in stream.metadata}
        first = [_matrix(frame) for frame in islice(container.decode(stream), 1)]
    return "rotate" in tags or any(matrix not in (None, (0, False)) for matrix in first)


@contextmanager
def _opened(track: Track) -> Iterator[tuple[Any, Any]]:
    try:
        with open_video(track.path) as container:
            stream = shown_stream(container)
            stream.codec_context.thread_count = 1  # the machine's cores are the model's
            yield container, stream
    except (av.error.FFmpegError, OSError) as error:
        raise unreadable(error, track.path) from None


def _spans(track: Track, expected: Sequence[int | None], indices: Sequence[int]) -> list[tuple[int, int]]:
    """From which frame to which one is decoded: from the last entry point before a frame, or on from the one before."""
    entries = [place for place, time in enumerate(expected) if time in track.entries]
    spans: list[tuple[int, int]] = []
    for index in indices:
        entry = entries[bisect_right(entries, index) - 1]
        if spans and entry <= spans[-1][1] + 1:
            spans[-1] = (spans[-1][0], index)
        else:
            spans.append((entry, index))
    return spans


def _decoded(
    container: Any,
    stream: Any,
    track: Track,
    complaints: Complaints,
    wanted: set[int],
    expected: Sequence[int | None],
    place: int,
) -> Iterator[Any]:
    """The frames from ``place`` on; a wanted one was decoded from nothing that is damaged."""
    damage, said_at = "", -AHEAD
    complaints.forget()
    for frame in _frames(container, stream, track, place):
        if place < len(expected) and frame.pts != expected[place]:
            raise OtherFramesError(f"the frame {place} is shown at another time than its packet says")
        if frame.pts in track.entries and place - said_at > AHEAD:
            damage = ""
        said = complaints.of_damage()
        if said:
            said_at = place
        if said or frame.is_corrupt:
            damage = damage or said or "its data can't be decoded"
        if damage and place in wanted:
            raise SampleError(f"the video is damaged at frame {place} ({damage})", path=track.path)
        yield frame
        place += 1


def _frames(container: Any, stream: Any, track: Track, place: int) -> Iterator[Any]:
    try:
        for frame in container.decode(stream):
            yield frame
            place += 1
    except av.error.FFmpegError as error:
        said = in_short(error, track.path)
        raise SampleError(f"the video is damaged at frame {place} ({said})", path=track.path) from None


class _Upright:
    """Turns decoded frames into RGB as players show them: upright, by the colours that the file states."""

    def __init__(self) -> None:
        self._graphs: dict[tuple[Any, ...], Any] = {}
        self._size: tuple[int, int] | None = None
        self._turn = (0, False)

    def look(self, frame: Any) -> None:
        """At every decoded frame: a stream may say it at its first or at key frames alone, for all that follow."""
        self._turn = _matrix(frame) or self._turn

    def __call__(self, frame: Any, track: Track) -> Any:
        turned, mirrored = self._turn
        if turned not in UPRIGHT:
            raise SampleError(f"the video is stored at an angle of {turned} degrees", path=track.path)
        key = (
            frame.width,
            frame.height,
            frame.format.name,
            frame.colorspace,
            frame.color_range,
            turned,
            mirrored,
        )
        if key not in self._graphs:
            self._graphs[key] = self._graph(frame, turned, mirrored)
        graph = self._graphs[key]
        frame.pts = None  # a graph drops what goes back in time
        graph.push(frame)
        return np.ascontiguousarray(graph.pull().to_ndarray())

    def _graph(self, frame: Any, turned: int, mirrored: bool) -> Any:
        width, height = (frame.height, frame.width) if turned in (90, 270) else (frame.width, frame.height)
        self._size = self._size or (width, height)  # one that changes in the file is scaled to its first
        graph = av.filter.Graph()
        steps = [
            graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=TICK)
        ]
        steps += [graph.add("hflip")] if mirrored else []
        steps += [graph.add(name, *([how] if how else [])) for name, how in UPRIGHT[turned]]
        steps += [
            graph.add("scale", "{}:{}".format(*self._size)),
            graph.add("format", "rgb24"),
            graph.add("buffersink"),
        ]
        graph.link_nodes(*steps).configure()
        return graph


def _matrix(frame: Any) -> tuple[int, bool] | None:
    """By how many degrees (counter-clockwise) a frame is to be turned, after it was mirrored or not; None: unsaid."""
    data = next((item for item in frame.side_data if item.type.name == "DISPLAYMATRIX"), None)
    if data is None:
        return None
    a, b, _, c, d = (value / 65536 for value in np.frombuffer(bytes(data), "<i4")[:5])
    mirrored = a * d - b * c < 0
    if mirrored:
        a, b = -a, -b
    return round(math.degrees(math.atan2(-b, a))) % 360, mirrored
