"""What packets say about themselves without being decoded: where decoding may begin, and whether frames are missing.

A container's mark of a key frame is not enough: H.264's open groups and rolling intra refresh carry it too, and a
decoder that begins there shows other pixels, or none.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

# Every frame of these stands alone.
INTRA_ONLY = frozenset(
    {"prores", "mjpeg", "dnxhd", "rawvideo", "png", "huffyuv", "ffvhuff", "utvideo", "qoi"}
)
H264_IDR, H264_SPS, H264_SLICES = 5, 7, (1, 2, 5)
HEVC_SLICES, HEVC_IDR = range(32), (19, 20)
AV1_SEQUENCE, AV1_FRAMES = 1, (3, 6)
WITH_CHROMA_FORMAT = frozenset({100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135})


def is_entry_point(codec: str, packet: bytes, extradata: bytes | None) -> bool:
    """Whether a decoder that begins at this packet shows what one shows that began at the start of the file.

    False where that can't be told: the file is then decoded in order.
    """
    if codec in INTRA_ONLY:
        return True
    if codec == "h264":
        kinds = [nal[0] & 31 for nal in nal_units(packet, _length_size(codec, extradata)) if nal]
        slices = [kind for kind in kinds if kind in H264_SLICES]
        return bool(slices) and all(kind == H264_IDR for kind in slices)
    if codec == "hevc":
        kinds = [nal[0] >> 1 & 63 for nal in nal_units(packet, _length_size(codec, extradata)) if nal]
        slices = [kind for kind in kinds if kind in HEVC_SLICES]
        return bool(slices) and all(kind in HEVC_IDR for kind in slices)
    if codec == "vp8":
        return bool(packet) and not packet[0] & 1
    if codec == "vp9":
        return _is_vp9_key(packet)
    if codec == "av1":
        return _is_av1_key(packet)
    if codec == "mpeg4":
        vop = packet.find(b"\x00\x00\x01\xb6")
        return 0 <= vop < len(packet) - 4 and packet[vop + 4] >> 6 == 0
    if codec in ("mpeg1video", "mpeg2video"):
        picture = packet.find(b"\x00\x00\x01\x00")
        return 0 <= picture < len(packet) - 5 and packet[picture + 5] >> 3 & 7 == 1
    return False


def nal_units(packet: bytes, length_size: int) -> Iterator[bytes]:
    """The units of an H.264 or HEVC packet: behind lengths of so many bytes, or (0) behind start codes."""
    if length_size:
        place = 0
        while place + length_size <= len(packet):
            size = int.from_bytes(packet[place : place + length_size], "big")
            place += length_size
            yield packet[place : place + size]
            place += size
        return
    yield from packet.split(b"\x00\x00\x01")[1:]


def _length_size(codec: str, extradata: bytes | None) -> int:
    place = 4 if codec == "h264" else 21
    if extradata and len(extradata) > place and extradata[0] == 1:
        return (extradata[place] & 3) + 1
    return 0


def _is_vp9_key(packet: bytes) -> bool:
    if not packet or packet[0] >> 6 != 2:
        return False
    bits = Bits(packet[:2])
    bits.take(2)
    if bits.take(1) + 2 * bits.take(1) == 3:  # profile
        bits.take(1)
    return bits.take(1) == 0 and bits.take(1) == 0  # no repeated frame, and a key frame


def _is_av1_key(packet: bytes) -> bool:
    """A sequence header, then a shown key frame."""
    place, has_header = 0, False
    while place < len(packet):
        kind, extended, sized = packet[place] >> 3 & 15, packet[place] >> 2 & 1, packet[place] >> 1 & 1
        place += 1 + extended
        size = len(packet) - place
        if sized:
            size, place = _leb128(packet, place)
        if kind == AV1_SEQUENCE:
            has_header = (
                place < len(packet) and not packet[place] >> 3 & 1
            )  # a reduced one is a still picture's
        if kind in AV1_FRAMES:
            # show_existing_frame 0, frame_type 0 (key), show_frame 1
            return has_header and place < len(packet) and packet[place] >> 4 == 1
        place += size
    return False


def _leb128(packet: bytes, place: int) -> tuple[int, int]:
    value = 0
    for count in range(8):
        if place >= len(packet):
            break
        byte = packet[place]
        place += 1
        value |= (byte & 127) << 7 * count
        if not byte & 128:
            break
    return value, place


class Bits:
    """Reads bits from the left; behind the end there are zeros."""

    def __init__(self, data: bytes) -> None:
        self._value = int.from_bytes(data, "big")
        self._left = 8 * len(data)

    def take(self, count: int) -> int:
        """The next `count` bits as a number; zeros behind the end."""
        self._left -= count
        shifted = self._value >> self._left if self._left >= 0 else self._value << -self._left
        return shifted & ((1 << count) - 1)

    def unsigned(self) -> int:
        """An Exp-Golomb code."""
        zeros = 0
        while not self.take(1):
            zeros += 1
            if zeros > 32:
                raise ValueError("no Exp-Golomb code")
        return (1 << zeros) - 1 + self.take(zeros)

    def signed(self) -> int:
        """A signed Exp-Golomb code."""
        code = self.unsigned()
        return (code + 1) // 2 if code % 2 else -(code // 2)


@dataclass(frozen=True)
class H264Counter:
    """How H.264 counts its pictures, by its sequence's settings (SPS).

    The picture numbers of two packets tell whether pictures between them are missing. Times alone can't tell: a
    variable frame rate has gaps as well.
    """

    length_size: int
    frame_number_bits: int
    order_bits: int  # 0: the picture order is the decoding order
    separate_planes: bool
    only_frames: bool

    @property
    def modulus(self) -> int:
        """Where the places in the order of display begin again."""
        return 1 << (self.order_bits or self.frame_number_bits)

    @classmethod
    def of(cls, extradata: bytes | None, first_packet: bytes) -> H264Counter | None:
        """None where it can't be read, or where the stream is allowed to leave out pictures."""
        length_size = _length_size("h264", extradata)
        if length_size and extradata and extradata[5] & 31 == 1:
            size = int.from_bytes(extradata[6:8], "big")
            return _read_sps(extradata[8 : 8 + size], length_size)
        parameters = [
            unit for unit in nal_units(first_packet, length_size) if unit and unit[0] & 31 == H264_SPS
        ]
        return _read_sps(parameters[0], length_size) if len(parameters) == 1 else None

    def number(self, packet: bytes) -> tuple[bool, int, int] | None:
        """Whether the packet begins a new count (IDR), its frame number, its place in the order of display."""
        for unit in nal_units(packet, self.length_size):
            kind = unit[0] & 31 if unit else 0
            if kind not in H264_SLICES:
                continue
            bits = Bits(unit[1:40].replace(b"\x00\x00\x03", b"\x00\x00"))
            try:
                for _ in range(3):  # first macroblock, kind of slice, picture parameters
                    bits.unsigned()
                bits.take(2 if self.separate_planes else 0)
                number = bits.take(self.frame_number_bits)
                if not self.only_frames and bits.take(1):
                    return None  # a field
                if kind == H264_IDR:
                    bits.unsigned()
                return kind == H264_IDR, number, bits.take(self.order_bits)
            except ValueError:
                return None
        return None


def _read_sps(sps: bytes, length_size: int) -> H264Counter | None:
    if len(sps) < 5:
        return None
    bits = Bits(sps[4:].replace(b"\x00\x00\x03", b"\x00\x00"))
    try:
        bits.unsigned()
        separate = False
        if sps[1] in WITH_CHROMA_FORMAT:
            separate = bits.unsigned() == 3 and bool(bits.take(1))
            bits.unsigned(), bits.unsigned(), bits.take(1)
            if bits.take(1):  # scaling matrices: rare, and long
                return None
        number_bits = bits.unsigned() + 4
        order = bits.unsigned()
        if order == 1:
            return None
        order_bits = bits.unsigned() + 4 if order == 0 else 0
        bits.unsigned()
        if bits.take(1):  # gaps in the frame numbers are allowed
            return None
        bits.unsigned(), bits.unsigned()
        return H264Counter(length_size, number_bits, order_bits, separate, bool(bits.take(1)))
    except ValueError:
        return None
