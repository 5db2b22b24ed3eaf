"""Which videos this machine reads: a small clip of each codec is written, and read as a run reads it."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from lmms_flow.errors import SampleError
from lmms_flow.inputs.clip import ANY_READER, READERS, Frames
from lmms_flow.inputs.video import read_frames

FRAMES, SIDE = 12, 64


@dataclass(frozen=True)
class Codec:
    """A codec, one container that it is found in, and encoders that can write it, best first."""

    name: str
    container: str
    encoders: tuple[str, ...]
    pixels: str = "yuv420p"
    common: bool = False  # benchmarks have such clips, so that a machine that can't read it does not work


CODECS = (
    Codec("H.264", "mp4", ("libx264", "h264", "libopenh264"), common=True),
    Codec("HEVC", "mp4", ("libx265", "hevc")),
    Codec("VP9", "webm", ("libvpx-vp9",)),
    Codec("AV1", "mp4", ("libsvtav1", "libaom-av1")),
    Codec("MPEG-4", "avi", ("mpeg4",)),
    Codec("ProRes", "mov", ("prores_ks", "prores"), pixels="yuv422p10le"),
)


def readers() -> dict[str, str]:
    """Each reader's version; empty where it is not installed, or can't be loaded."""
    found = {}
    for name in READERS:
        try:
            found[name] = importlib.import_module(f"lmms_flow.inputs.{name}").version()
        except Exception:  # a library that is built for another system raises what it likes
            found[name] = ""
    return found


@dataclass(frozen=True)
class Tried:
    """What came of a clip of a codec: which reader read it, or why none did; neither where none could be written."""

    reader: str = ""
    problem: str = ""


def try_codec(codec: Codec, folder: Path, reader: str = ANY_READER) -> Tried:
    """Writes a clip and reads it: its frames must come back in their order."""
    file = _write(codec, folder)
    if file is None:
        return Tried()
    try:
        frames = _read(file, reader)
    except SampleError as error:
        return Tried(problem=error.reason)
    shown = [float(frame.mean()) for frame in frames.pixels]
    expected = [_grey(index) for index in frames.indices]
    if max(abs(one - other) for one, other in zip(shown, expected, strict=True)) > 12:
        return Tried(problem=f"frames {list(frames.indices)} came back as others")
    return Tried(reader=frames.reader)


def _grey(index: int) -> float:
    """Each frame is darker or lighter than its neighbours, by more than a codec loses."""
    return 30 + 190 * index / (FRAMES - 1)


def _write(codec: Codec, folder: Path) -> Path | None:
    """The clip's file, or None where no encoder of this machine writes it."""
    import av

    for encoder in codec.encoders:
        file = folder / f"{codec.name}-{encoder}.{codec.container}"
        try:
            with av.open(str(file), "w") as container:
                stream: Any = container.add_stream(encoder, rate=Fraction(12))
                stream.width = stream.height = SIDE
                stream.pix_fmt = codec.pixels
                for index in range(FRAMES):
                    image = np.full((SIDE, SIDE, 3), round(_grey(index)), np.uint8)
                    container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
                container.mux(stream.encode(None))
        except (OSError, ValueError, av.FFmpegError):  # av's own are of these kinds, by version
            continue
        return file
    return None


def _read(file: Path, reader: str) -> Frames:
    return read_frames(file, 4, reader=reader)
