"""Frames that are missing in the middle of a file.

A gap in time alone is no hole: a variable frame rate has gaps as well. It is one where H.264 counts on meanwhile. With
other codecs the decoder complains of what it has to begin with and has not, and lost fragments of an MP4 are missing in
their numbers (`container`).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from lmms_flow.errors import SampleError
from lmms_flow.inputs.bitstream import H264Counter
from lmms_flow.inputs.opening import open_video
from lmms_flow.inputs.track import Track, shown_stream

GAP = 1.5  # of the usual time between two frames: more than this is a gap
REORDERED = 16  # frames that may be decoded after one that is shown after them, at most
REGULAR = 0.8  # of the steps from a frame to the next one are equal where pictures are numbered as usual


def refuse_holes(track: Track, extradata: bytes | None, first: bytes) -> None:
    """Raises SampleError for a hole. ``first`` is the first packet."""
    if track.codec != "h264" or track.shown is None or len(track.shown) < 3:
        return
    steps = np.diff(track.shown)
    gaps = np.flatnonzero(steps > GAP * np.median(steps))
    counter = H264Counter.of(extradata, first) if len(gaps) else None
    if counter is None:
        return
    pictures = _count(track, counter)
    for place in gaps:
        missing = pictures.missing(track.shown[place], track.shown[place + 1])
        if missing:
            seconds = (track.shown[place] - track.shown[0]) * track.tick
            line = f"the video has a hole: {missing} missing at {seconds:.2f} s"
            raise SampleError(line, path=track.path)


class _Picture(NamedTuple):
    sequence: int  # which one: a new one begins at each IDR picture
    order: int  # its place in the order of display
    frame: int  # counts the pictures that others are decoded from


@dataclass(frozen=True)
class _Pictures:
    """H.264's own numbers by time (pts), in decoding order; ``usual`` is the step from one to the next."""

    numbers: dict[int, _Picture]
    counter: H264Counter
    usual: int

    def missing(self, before: int, behind: int) -> str:
        """How many pictures are missing between two frames, in words; empty where none is or nobody can tell."""
        if not self.usual or before not in self.numbers or behind not in self.numbers:
            return ""
        one, other = self.numbers[before], self.numbers[behind]
        if one.sequence != other.sequence or one.sequence == 0:  # 0: the file begins in the middle of one
            return ""
        step = (other.order - one.order) % self.counter.modulus
        lost = step // self.usual - 1
        if lost < 1 or (lost <= REORDERED and self._are_cut_off(behind)):
            return ""
        # A count that goes back has lost its beginning, and with it how many are missing.
        if step >= self.counter.modulus // 2:
            return "frames are"
        return "1 frame is" if lost == 1 else f"{lost} frames are"

    def _are_cut_off(self, behind: int) -> bool:
        """Whether the missing ones would have been decoded last of their sequence.

        So ends a file that was cut with its packets copied: no picture was decoded from them.
        """
        own = [
            (time, picture)
            for time, picture in self.numbers.items()
            if picture.sequence == self.numbers[behind].sequence
        ]
        place = [time for time, _ in own].index(behind)
        last = max(time for time, _ in own)
        if any(time >= last for time, _ in own[place + 1 :]):
            return False
        span = 1 << self.counter.frame_number_bits
        frames = [picture.frame for _, picture in own]
        return all((after - before) % span <= 1 for before, after in pairwise(frames))


def _count(track: Track, counter: H264Counter) -> _Pictures:
    """Reads the numbers of all pictures: only files with a gap are read a second time."""
    numbers: dict[int, _Picture] = {}
    count = 0
    with open_video(track.path) as container:
        for packet in container.demux(shown_stream(container)):
            found = counter.number(bytes(packet)) if packet.size else None
            if found is None or packet.pts is None:
                continue
            is_new, frame, order = found
            count += is_new
            numbers[packet.pts] = _Picture(count, order if counter.order_bits else frame, frame)
    times = sorted(numbers)
    steps = Counter(
        (numbers[behind].order - numbers[before].order) % counter.modulus
        for before, behind in pairwise(times)
        if numbers[before].sequence == numbers[behind].sequence
    )
    usual, often = steps.most_common(1)[0] if steps else (0, 0)
    return _Pictures(numbers, counter, usual if often >= REGULAR * steps.total() else 0)
