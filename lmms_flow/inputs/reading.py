"""Decodes a clip in this process: a frame's index is the place in which any player shows it, or there is an error.

How many frames there are and when they are shown comes from demuxing, or, where packets don't tell, from decoding the
whole file once. Every reader is held to that.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from lmms_flow.errors import SampleError
from lmms_flow.inputs import decord, pyav, torchcodec
from lmms_flow.inputs.clip import ANY_READER, Clip, Frames, existing_file
from lmms_flow.inputs.clock import read_clock, shown_times
from lmms_flow.inputs.complaints import Complaints
from lmms_flow.inputs.demux import read_track
from lmms_flow.inputs.pyav import OtherFramesError
from lmms_flow.inputs.sampling import clip_bounds, frame_indices, timed_bounds
from lmms_flow.inputs.timeline import Timeline, timeline
from lmms_flow.inputs.track import Track

MODULES: dict[str, ModuleType] = {"decord": decord, "torchcodec": torchcodec}


def decode(clip: Clip, complaints: Complaints) -> Frames:
    """Takes as long as it takes; :func:`lmms_flow.inputs.video.read_frames` is for all but its own workers."""
    file = existing_file(clip.path)
    track = read_track(file, complaints)
    if track.shown is None:
        return _decode_counted(clip, track, complaints)
    try:
        shown = [time * track.tick for time in track.shown]
        return _take(clip, track, track.shown, timeline(shown, track.rate), complaints)
    except OtherFramesError:  # fewer or more are shown than packets tell
        return _decode_counted(clip, track, complaints)


def _decode_counted(clip: Clip, track: Track, complaints: Complaints) -> Frames:
    """Decodes the file twice: once to count its frames, once to take some."""
    counted = pyav.count(track, complaints)
    track = replace(track, entries=frozenset(), packets=track.packets)
    expected = [time for time, _ in counted]
    seconds = _spread([second for _, second in counted], track)
    try:
        return _take(clip, track, expected, timeline(seconds, track.rate), complaints, in_order=True)
    except OtherFramesError as error:
        raise SampleError(
            f"the video shows other frames each time it is read: {error}", path=track.path
        ) from None


def _spread(seconds: Sequence[float], track: Track) -> Sequence[float]:
    """Frames without a time of their own are spread over the time that the packets span."""
    if not any(map(math.isnan, seconds)) and all(np.diff(seconds) > 0):
        return seconds
    decoding = [packet.dts for packet in track.packets if packet.dts is not None]
    span = (max(decoding) - min(decoding)) * track.tick if len(decoding) > 1 else 0.0
    return list(np.linspace(0, span, len(seconds)))


def _take(
    clip: Clip,
    track: Track,
    expected: Sequence[int | None],
    clock: Timeline,
    complaints: Complaints,
    in_order: bool = False,
) -> Frames:
    """Chooses frames and reads them. Raises OtherFramesError where ``expected`` is not what the file shows."""
    indices = _indices(clip, clock, track.path)
    ordered = sorted(set(indices))
    reader, images = _read(clip, track, expected, ordered, complaints, in_order)
    place = {index: at for at, index in enumerate(ordered)}
    return Frames(
        np.stack([images[place[index]] for index in indices]),
        indices,
        clock.fps,
        clock.seconds(indices),
        _shown(clip, clock, indices, track.path),
        reader,
        _notes(clip, clock, indices, track),
        _length(clip, clock, track.path),
    )


def _indices(clip: Clip, clock: Timeline, file: Path) -> tuple[int, ...]:
    if clip.at:
        if not 0 <= min(clip.at) <= max(clip.at) < clock.length:
            raise SampleError(
                f"the video has {clock.length} frames and not all that were read of it", path=file
            )
        return tuple(clip.at)
    start, end = clock.at_rate(clip.start), clock.at_rate(clip.end)
    return frame_indices(
        clip.sampling, clip.num_frames, clock.length, clock.fps, start, end, clip.duration, path=file
    )


def _length(clip: Clip, clock: Timeline, file: Path) -> int:
    """How many frames lie between the clip's bounds."""
    if clip.at or (clip.start is None and clip.end is None):
        return clock.length
    start, end = clock.at_rate(clip.start), clock.at_rate(clip.end)
    bounds = timed_bounds if clip.sampling == "linspace" else clip_bounds
    first, last = bounds(clock.length, clock.fps, start, end, path=file)
    return max(last - first, 0) + 1


def _read(
    clip: Clip,
    track: Track,
    expected: Sequence[int | None],
    indices: Sequence[int],
    complaints: Complaints,
    in_order: bool,
) -> tuple[str, list[Any]]:
    """Which reader it was, and the frames."""
    if clip.reader not in (ANY_READER, "pyav"):
        reader = MODULES[clip.reader]
        try:
            name = reader.version()
        except ImportError as error:
            raise SampleError(
                f"reader={clip.reader} is not installed here ({error}): write reader=pyav"
            ) from None
        try:
            if in_order:
                raise OtherFramesError("packets don't tell which frames are shown")
            return name, reader.read(track, expected, indices, complaints)
        except OtherFramesError as error:
            # PyAV knows whether it is the file; if it is, that is what is said.
            pyav.read(track, expected, indices, complaints)
            line = f"{clip.reader} does not read this {track.codec} video safely ({error}): reader=pyav does"
            raise SampleError(line, path=track.path) from None
    if clip.reader == ANY_READER and not track.why_in_order and not in_order:
        try:
            return decord.version(), decord.read(track, expected, indices, complaints)
        except (ImportError, OtherFramesError):
            pass
    return pyav.version(), pyav.read(track, expected, indices, complaints)


def _shown(clip: Clip, clock: Timeline, indices: Sequence[int], file: Path) -> tuple[float, ...]:
    if clip.sampling != "linspace":
        return ()
    stated = read_clock(file)
    if stated is None:
        return ()
    if clock.is_variable:
        return tuple(stated.begin + second for second in clock.seconds(indices))
    return shown_times(indices, clock.length, clock.fps, stated, clip.start, clip.end)


def _notes(clip: Clip, clock: Timeline, indices: tuple[int, ...], track: Track) -> tuple[str, ...]:
    """Where the paper's loader, which counts packets at the average rate, would take other frames."""
    notes = []
    if track.num_hidden:
        notes.append(
            f"{track.num_hidden} packets of the video are not shown; the paper's loader counts them as frames"
        )
    if clock.is_variable and (clip.start is not None or clip.end is not None):
        try:
            steady = _indices(clip, replace(clock, is_variable=False), track.path)
        except SampleError:
            steady = ()
        if steady != indices:
            frames = ", ".join(map(str, steady)) or "none"
            notes.append(
                f"variable frame rate: frames are taken by time; by the average rate they are {frames}"
            )
    elif clock.is_variable and clip.sampling == "linspace":
        notes.append("variable frame rate: the prompt names the frames' own times")
    return tuple(notes)
