"""Files that are shorter than their container says: readers show what is there of them as if it were all."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

from lmms_flow.harness.errors import SampleError

EBML, SEGMENT = 0x1A45DFA3, 0x18538067
RIFF_PADDING = 1  # chunks have even sizes, and some writers leave the last byte out


def refuse_truncated(file: Path, formats: frozenset[str]) -> None:
    """Raises SampleError where the container states a size that the file has not. Many formats state none."""
    actual = file.stat().st_size
    with file.open("rb") as opened:
        if "mp4" in formats:
            stated = _boxes_end(opened, actual)
        elif formats & {"matroska", "webm"}:
            stated = _segment_end(opened)
        elif "avi" in formats:
            stated = _riff_end(opened) - RIFF_PADDING
        else:
            return
    if stated > actual:
        raise SampleError(f"the video is truncated: {actual} of {stated} bytes are there", path=file)


def _boxes_end(file: BinaryIO, actual: int) -> int:
    """Where the last box of an MP4 ends. A size of 0 is that of the rest of the file."""
    place = 0
    while place + 8 <= actual:
        file.seek(place)
        head = file.read(16)
        size = int.from_bytes(head[:4], "big")
        if size == 1:
            size = int.from_bytes(head[8:16], "big")
        if size < 8 or not head[4:8].isalnum():  # the rest of the file, or something behind its end
            return actual
        place += size
    return place


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
