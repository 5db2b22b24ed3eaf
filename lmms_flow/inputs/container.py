"""Files of which their container says that something is missing: readers show what is there as if it were all."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import BinaryIO, NamedTuple

from lmms_flow.errors import SampleError

EBML, SEGMENT = 0x1A45DFA3, 0x18538067
RIFF_PADDING = 1  # chunks have even sizes, and some writers leave the last byte out


def refuse_truncated(file: Path, formats: frozenset[str]) -> None:
    """Raises SampleError where a file is shorter than it states, or parts are missing by their numbers."""
    actual = file.stat().st_size
    with file.open("rb") as opened:
        if "mp4" in formats:
            boxes = _boxes(opened, actual)
            _refuse_lost_fragments(boxes, file)
            stated = boxes[-1].end if boxes else actual
        elif formats & {"matroska", "webm"}:
            stated = _segment_end(opened)
        elif "avi" in formats:
            stated = _riff_end(opened) - RIFF_PADDING
        else:
            return
    if stated > actual:
        raise SampleError(f"the video is truncated: {actual} of {stated} bytes are there", path=file)


class _Box(NamedTuple):
    end: int
    fragment: int | None  # the number of the fragment of which it is the head


def _boxes(file: BinaryIO, actual: int) -> list[_Box]:
    """The outermost boxes of an MP4. A size of 0 is that of the rest of the file; so is what is no box."""
    boxes = []
    place = 0
    while place + 8 <= actual:
        file.seek(place)
        head = file.read(24)
        size, kind = int.from_bytes(head[:4], "big"), head[4:8]
        if size == 1:
            size = int.from_bytes(head[8:16], "big")
        if size < 8 or not kind.isalnum():
            break
        number = int.from_bytes(head[20:24], "big") if kind == b"moof" and head[12:16] == b"mfhd" else None
        place += size
        boxes.append(_Box(place, number))
    return boxes


def _refuse_lost_fragments(boxes: list[_Box], file: Path) -> None:
    numbers = [box.fragment for box in boxes if box.fragment is not None]
    steps = [behind - before for before, behind in pairwise(numbers)]
    if (steps and max(steps) > min(steps) == 1) or (numbers[:1] == [1] and max(steps, default=1) > 1):
        before = numbers[steps.index(max(steps))]
        line = f"the video has a hole: {max(steps) - 1} of its fragments are missing after number {before}"
        raise SampleError(line, path=file)


def _segment_end(file: BinaryIO) -> int:
    """Where a Matroska file's first segment ends; 0 where it does not say, as live recordings don't."""
    place = 0
    for expected in (EBML, SEGMENT):
        file.seek(place)
        head = file.read(12)
        if len(head) < 12 or int.from_bytes(head[:4], "big") != expected:
            return 0
        length = 9 - head[4].bit_length()
        if not 1 <= length <= 8:
            return 0
        value = int.from_bytes(head[4 : 4 + length], "big")
        size = value & ((1 << 7 * length) - 1)
        if size == (1 << 7 * length) - 1:
            return 0
        place += 4 + length + size
    return place


def _riff_end(file: BinaryIO) -> int:
    head = file.read(8)
    size = int.from_bytes(head[4:8], "little")
    return 8 + size if head[:4] == b"RIFF" and 0 < size < 0xFFFFFFFF else 0
