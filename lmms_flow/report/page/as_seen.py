"""Frames as a model sees them: the part of each that its tokens cover, and the grid in which these lie."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from ..traces import Traced
from .frames import NoFramesError, pixels_of

MOST = 8  # frames


@dataclass(frozen=True, eq=False)
class Seen:
    """The frames of one traced question.

    Args:
        pixels: what the tokens cover, uint8 RGB [frame, side, side, 3].
        tokens: the places of each frame's tokens among all video tokens.
        side: of the grid of tokens.
    """

    pixels: Any
    tokens: tuple[range, ...]
    side: int

    def grid(self, values: Any, frame: int) -> Any:
        """One value a video token as the grid of a frame, [row, column]."""
        place = self.tokens[frame]
        return values[place.start : place.stop].reshape(self.side, self.side)


def seen(one: Traced, about: dict[str, Any], most: int = MOST) -> Seen | None:
    """The frames of a question; None where it is not known which part of a frame a token is of.

    That is so where frames are merged in the prompt, where other tokens stand between them, and where frames are not
    square and the trace does not say how they were made so (`fit`).

    Args:
        one: the question.
        about: what its arrays say.
        most: frames.
    """
    record = one.record
    spans = [range(int(start), int(stop)) for start, stop in about.get("frames") or ()]
    sizes = {len(span) for span in spans}
    if not record.video or len(spans) != len(record.frames) or len(sizes) != 1:
        return None
    side = math.isqrt(sizes.pop())
    if not side or side * side != len(spans[0]):
        return None
    try:
        pixels = pixels_of(record.video, record.clip, record.frames[:most])
    except NoFramesError:
        return None
    square = _square(pixels, str(about.get("fit") or ""))
    first = spans[0].start
    tokens = tuple(range(span.start - first, span.stop - first) for span in spans[:most])
    return None if square is None else Seen(square, tokens, side)


def _square(pixels: Any, fit: str) -> Any:
    """The frames as the squares that the model was given, [frame, side, side, 3]; None where that is not known."""
    height, width = pixels.shape[1:3]
    side = min(height, width)
    if height == width:
        return pixels
    if fit == "crop":
        top, left = (height - side) // 2, (width - side) // 2
        return pixels[:, top : top + side, left : left + side]
    if fit == "squash":
        return np.stack(
            [np.asarray(Image.fromarray(np.ascontiguousarray(f)).resize((side, side))) for f in pixels]
        )
    return None
