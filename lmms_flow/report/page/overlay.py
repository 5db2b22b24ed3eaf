"""Attention drawn on the frames themselves, for one question of each benchmark."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from PIL import Image

from ..traces import Traced
from .frames import NoFramesError, data_address, pixels_of, sheet
from .parts import Block, FrameRow

WIDTH = 112
MOST = 8
TARGETS = ("question", "options", "last")


def frames_with_attention(traced: Sequence[Traced]) -> Block | None:
    """The first traced question whose frames can be read again and whose tokens lie on a grid; None where none is.

    A frame is shown as it was read; a token's colour is its attention in the layer that looks at the video most.
    """
    for one in traced[:20]:
        record = one.record
        if "attention.last.tokens" not in record.shapes or not record.video or not record.frames:
            continue
        arrays = one.arrays()
        spans = arrays.about.get("frames") or []
        grids = _grids([int(stop) - int(start) for start, stop in spans])
        if not grids or len(spans) != len(record.frames):  # a pair of frames in one is drawn in the maps
            continue
        try:
            pixels = pixels_of(record.video, record.clip, record.frames[:MOST])
        except NoFramesError:
            continue
        first = int(spans[0][0])
        rows = []
        for target in TARGETS:
            tokens = arrays.values.get(f"attention.{target}.tokens")
            if tokens is not None:
                rows.append(_row(pixels, tokens.astype(np.float64), spans, first, grids, target))
        text = f"Question {record.id} of {record.base or record.task}: attention drawn on its frames."
        return Block(text=text, frames=tuple(rows))
    return None


def _grids(sizes: Sequence[int]) -> list[int]:
    """The side of each frame's grid of tokens; empty where one is no square."""
    sides = [math.isqrt(size) for size in sizes]
    return sides if all(side and side * side == size for side, size in zip(sides, sizes, strict=True)) else []


def _row(
    pixels: Any, tokens: Any, spans: Sequence[Sequence[int]], first: int, grids: Sequence[int], target: str
) -> FrameRow:
    """`tokens` is [layer, video token]."""
    layer = int(tokens.sum(axis=1).argmax())
    values = tokens[layer]
    top = max(float(values.max()), 1e-12)
    parts = [
        values[start - first : stop - first].reshape(side, side) / top
        for (start, stop), side in zip(spans, grids, strict=True)
    ]
    drawn = np.stack([_blend(frame, part) for frame, part in zip(pixels, parts, strict=False)])
    strongest = int(np.argmax([part.sum() for part in parts]))
    alt = f"Attention of {target} in layer {layer + 1} on each frame; frame {strongest + 1} gets most"
    return FrameRow(data_address(sheet(drawn, WIDTH), 45), alt, f"{target}, layer {layer + 1}")


def _blend(frame: Any, part: Any) -> Any:
    """A frame in grey, its tokens' attention in colour above it."""
    height, width = frame.shape[:2]
    colours = (255 * colormaps["inferno"](np.sqrt(np.clip(part, 0, 1)))[..., :3]).astype(np.uint8)
    above = np.asarray(
        Image.fromarray(colours).resize((width, height), Image.Resampling.BICUBIC), dtype=np.float64
    )
    grey = np.asarray(frame, dtype=np.float64).mean(axis=-1, keepdims=True)
    return (0.45 * grey + 0.55 * above).clip(0, 255).astype(np.uint8)
