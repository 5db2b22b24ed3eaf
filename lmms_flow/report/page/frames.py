"""The frames that were read, small enough for a page: one image of a question's frames, side by side."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image

from ...errors import SampleError
from ...inputs.video import frames_at
from ...records.key import clip_digest
from ..arms import ScoredSample
from .parts import FrameRow

# Width of a frame in pixels, and the quality of the image, from the best on.
SIZES = ((112, 45), (96, 38), (80, 32), (64, 28), (48, 25), (36, 22))
MOST = 16  # frames of one image; of more every second, third, ... is shown
GAP = 2


class NoFramesError(Exception):
    """Why a question's frames can't be shown, in words."""


@lru_cache(maxsize=8)
def pixels_of(path: str, clip: str, indices: tuple[int, ...]) -> Any:
    """The frames at these places, uint8 RGB [frame, height, width, 3].

    Raises NoFramesError where the file is gone, or is another one now.
    """
    try:
        if clip and clip_digest(path) != clip:
            raise NoFramesError("the video was changed since, so its frames are not shown")
        return frames_at(path, indices).pixels
    except SampleError as error:
        raise NoFramesError(f"the frames can't be shown: {error.reason}") from None


def chosen(frames: tuple[int, ...]) -> tuple[int, ...]:
    """Which of the frames are shown: all of them, or every n-th."""
    return frames[:: -(-len(frames) // MOST)] if frames else ()


def rows_of(sample: ScoredSample) -> Iterator[FrameRow]:
    """The frames of a question as ever smaller images. Raises NoFramesError where there are none to show."""
    if not sample.video or not sample.frames:
        raise NoFramesError("the record does not say which frames of which video were read")
    indices = chosen(sample.frames)
    pixels = pixels_of(sample.video, sample.clip, indices)
    numbers = ", ".join(map(str, indices))
    part = "" if len(indices) == len(sample.frames) else f"{len(indices)} of "
    alt = f"{part}{len(sample.frames)} frames that were read, in their order: numbers {numbers} of the video"
    for width, quality in SIZES:
        yield FrameRow(data_address(sheet(pixels, width), quality), alt, "")


def sheet(pixels: Any, width: int) -> Image.Image:
    """Frames side by side, in rows of at most four (of many frames: eight)."""
    count, full_height, full_width = pixels.shape[:3]
    height = max(1, min(3 * width, round(width * full_height / full_width)))
    columns = min(count, 4 if count <= 8 else 8)
    rows = -(-count // columns)
    made = Image.new("RGB", (columns * (width + GAP) - GAP, rows * (height + GAP) - GAP), (128, 128, 128))
    for place, frame in enumerate(pixels):
        small = Image.fromarray(np.ascontiguousarray(frame)).resize((width, height), Image.Resampling.LANCZOS)
        made.paste(small, (place % columns * (width + GAP), place // columns * (height + GAP)))
    return made


def data_address(image: Image.Image, quality: int) -> str:
    """An image as WebP in a data: address."""
    data = io.BytesIO()
    image.save(data, format="WEBP", quality=quality, method=4)
    return f"data:image/webp;base64,{base64.b64encode(data.getvalue()).decode()}"
