"""What containers state of their own length, byte by byte: one byte less than that is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from lmms_flow.errors import SampleError
from lmms_flow.inputs.container import refuse_truncated

EBML, SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"
MATROSKA, AVI, MP4 = frozenset({"matroska", "webm"}), frozenset({"avi"}), frozenset({"mov", "mp4"})


def element(name: bytes, content: bytes, width: int) -> bytes:
    """With its size in `width` bytes."""
    return name + (len(content) | 1 << 7 * width).to_bytes(width, "big") + content


def box(kind: bytes, content: bytes, wide: bool = False) -> bytes:
    if wide:
        return (1).to_bytes(4, "big") + kind + (16 + len(content)).to_bytes(8, "big") + content
    return (8 + len(content)).to_bytes(4, "big") + kind + content


def fragments(*numbers: int) -> bytes:
    heads = (box(b"mfhd", bytes(4) + number.to_bytes(4, "big")) for number in numbers)
    return box(b"ftyp", b"isom") + b"".join(box(b"moof", head) + box(b"mdat", b"12345678") for head in heads)


def refusal(content: bytes, formats: frozenset[str], folder: Path) -> str:
    file = folder / "clip"
    file.write_bytes(content)
    try:
        refuse_truncated(file, formats)
    except SampleError as error:
        return error.reason
    return ""


def riff(stated: int, content: bytes) -> bytes:
    return b"RIFF" + stated.to_bytes(4, "little") + content


WHOLE = [
    *(
        (element(EBML, b"a" * 20, first) + element(SEGMENT, b"b" * 100, second), MATROSKA, 1)
        for first in (1, 2, 8)
        for second in (1, 2, 3, 8)
    ),
    (riff(54, bytes(54)), AVI, 2),  # the last byte may be left out
    (box(b"ftyp", b"isom") + box(b"mdat", bytes(90)), MP4, 1),
    (box(b"ftyp", b"isom") + box(b"mdat", bytes(90), wide=True), MP4, 1),
    (box(b"mdat", bytes(90), wide=True) + box(b"moov", bytes(20)), MP4, 1),
    (fragments(1, 2, 3), MP4, 1),
]


@pytest.mark.parametrize(("content", "formats", "lost"), WHOLE)
def test_a_byte_less_than_is_stated(
    content: bytes, formats: frozenset[str], lost: int, tmp_path: Path
) -> None:
    assert refusal(content, formats, tmp_path) == ""
    assert refusal(content + b"more", formats, tmp_path) == ""
    for fewer in range(1, lost):
        assert refusal(content[:-fewer], formats, tmp_path) == ""
    line = refusal(content[:-lost], formats, tmp_path)
    assert (
        line == f"the video is truncated: {len(content) - lost} of {len(content) - lost + 1} bytes are there"
    )
    assert refusal(content[:-lost], frozenset({"mpegts"}), tmp_path) == ""


@pytest.mark.parametrize(
    ("content", "formats"),
    [
        (b"", MATROSKA),
        (element(EBML, b"a" * 20, 1), MATROSKA),
        (
            element(EBML, b"a" * 20, 1) + SEGMENT + b"\xff" + bytes(20),
            MATROSKA,
        ),  # a live recording says nothing
        (element(EBML, b"a" * 20, 1) + SEGMENT + b"\x01" + b"\xff" * 7 + bytes(20), MATROSKA),
        (element(EBML, b"a" * 20, 1) + SEGMENT + b"\x00" + bytes(20), MATROSKA),  # no size at all
        (element(EBML, b"a" * 20, 1) + element(b"\x18\x53\x80\x68", b"b" * 100, 1)[:-5], MATROSKA),
        (element(SEGMENT, b"b" * 100, 1)[:-5], MATROSKA),
        (riff(0, bytes(20)), AVI),
        (riff(0xFFFFFFFF, bytes(20)), AVI),
        (b"RIFX" + riff(900, bytes(20))[4:], AVI),
        (b"", AVI),
        (b"", MP4),
        (box(b"ftyp", b"isom") + bytes(4) + b"mdat" + bytes(30), MP4),  # up to the file's end
        (box(b"ftyp", b"isom") + b"\x00\x00\x10\x00\x00..!" + bytes(30), MP4),  # no box
        (fragments(5, 6, 7), MP4),  # a part of a stream
        (fragments(2, 4, 6), MP4),  # numbered by its writer's taste
        (fragments(1), MP4),
    ],
)
def test_what_states_nothing_is_not_refused(content: bytes, formats: frozenset[str], tmp_path: Path) -> None:
    assert refusal(content, formats, tmp_path) == ""


@pytest.mark.parametrize(
    ("numbers", "missing", "after"),
    [((1, 2, 4), 1, 2), ((1, 4, 7), 2, 1), ((5, 6, 9, 10), 2, 6), ((1, 3), 1, 1)],
)
def test_fragments_whose_numbers_have_a_hole(
    numbers: tuple[int, ...], missing: int, after: int, tmp_path: Path
) -> None:
    line = refusal(fragments(*numbers), MP4, tmp_path)
    assert line == f"the video has a hole: {missing} of its fragments are missing after number {after}"
