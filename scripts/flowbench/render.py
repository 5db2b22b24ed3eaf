"""Frames of a clip: uint8 [frame, height, width, channel]. Hard edges and exact arithmetic, so bytes are stable."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from scripts.flowbench.specs import BACKGROUNDS, NUM_FRAMES, SIDE, Change, Clip, Motion, Parade, Scenery

RGB = {
    "red": (230, 30, 30),
    "green": (30, 200, 40),
    "blue": (40, 70, 245),
    "yellow": (245, 225, 30),
    "pink": (245, 80, 220),
    "cyan": (40, 225, 235),
}
STEP = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
ALL_FRAMES = tuple(range(NUM_FRAMES))
REST = range(12, 20)  # blocks 3 and 4

_Y, _X = np.mgrid[0:SIDE, 0:SIDE].astype(np.float64)  # each [height, width]


def render(clip: Clip, frames: Sequence[int] = ALL_FRAMES) -> np.ndarray:
    """The clip's frames of these numbers: uint8 [frame, height, width, 3]."""
    drawers: dict[type[Clip], Callable[[Any, np.ndarray], np.ndarray]] = {
        Motion: _motion,
        Change: _change,
        Parade: _parade,
        Scenery: _scenery,
    }
    return drawers[type(clip)](clip, np.asarray(frames))


def progress(frames: np.ndarray) -> np.ndarray:
    """From -1 to 1 over the clip, 0 during the rest, odd under reversal."""
    before = np.minimum(frames - REST.start, 0)
    after = np.maximum(frames - (REST.stop - 1), 0)
    moved: np.ndarray = (before + after) / REST.start
    return moved


def inside(shape: str, x: np.ndarray, y: np.ndarray, radius: np.ndarray | float) -> np.ndarray:
    covered: np.ndarray
    if shape == "disc":
        covered = x * x + y * y <= radius * radius
    elif shape == "square":
        covered = np.maximum(abs(x), abs(y)) <= 0.88 * radius
    else:
        covered = abs(x) + abs(y) <= 1.25 * radius
    return covered


def _canvas(frames: np.ndarray, background: int) -> np.ndarray:
    return np.tile(np.array(BACKGROUNDS[background], np.uint8), (len(frames), SIDE, SIDE, 1))


def _motion(clip: Motion, frames: np.ndarray) -> np.ndarray:
    canvas = _canvas(frames, clip.background)
    along = clip.reach * progress(frames)[:, None, None]
    dx, dy = STEP[clip.direction]
    canvas[inside(clip.shape, _X - clip.x - dx * along, _Y - clip.y - dy * along, clip.radius)] = RGB[
        clip.colour
    ]
    return canvas


def _change(clip: Change, frames: np.ndarray) -> np.ndarray:
    canvas = _canvas(frames, clip.background)
    amount = progress(frames) * (-1 if clip.action in ("shrink", "close") else 1)
    size = amount if clip.action in ("grow", "shrink") else np.zeros_like(amount)
    mouth = amount if clip.action in ("open", "close") else np.zeros_like(amount)
    radius = clip.radius * (1 + 0.5 * size[:, None, None])
    x, y = _X - clip.x, _Y - clip.y
    dx, dy = STEP[clip.facing]
    forward, sideways = x * dx + y * dy, abs(x * dy + y * dx)
    angles = [math.radians(40 + 38 * float(m)) for m in mouth]  # half of the mouth's angle
    cos = np.array([math.cos(a) for a in angles])[:, None, None]
    sin = np.array([math.sin(a) for a in angles])[:, None, None]
    open_part = forward * sin > sideways * cos
    canvas[inside("disc", x, y, radius) & ~open_part] = RGB[clip.colour]
    return canvas


def _parade(clip: Parade, frames: np.ndarray) -> np.ndarray:
    canvas = _canvas(frames, clip.background)
    for row, frame in enumerate(frames):
        thing = clip.things[frame // 4]
        if thing is not None:
            canvas[row][inside(thing.shape, _X - thing.x, _Y - thing.y, thing.radius)] = RGB[thing.colour]
    return canvas


def _scenery(clip: Scenery, frames: np.ndarray) -> np.ndarray:
    canvas = np.zeros((len(frames), SIDE, SIDE, 3), np.uint8)
    for row, frame in enumerate(int(f) for f in frames):
        if frame in REST:
            continue
        late = frame >= REST.stop
        # The panorama is a strip of 96 columns that closes on itself.
        shift = clip.offsets[late] + clip.pan * frame
        canvas[row] = np.roll(PANORAMAS[clip.last if late else clip.first], shift, axis=1)
    return canvas


def _panorama(scene: str) -> np.ndarray:
    """No two shifts of a panorama look the same, so that different clips have different frames."""
    picture = np.zeros((SIDE, SIDE, 3), np.uint8)

    def fill(mask: np.ndarray, colour: tuple[int, int, int]) -> None:
        picture[mask] = colour

    if scene == "beach":
        fill(_Y < 96, (240, 205, 110))
        fill(_Y < 60, (40, 120, 220))
        fill(_Y < 36, (150, 215, 250))
        fill(inside("disc", _X - 70, _Y - 17, 10.0), (255, 250, 200))
    elif scene == "forest":
        fill(_Y < 96, (25, 120, 40))
        fill(_X % 24 < 9, (70, 45, 20))
        fill((abs(_X - 40) < 7) & (_Y > 55), (90, 190, 60))
        fill(_Y > 80, (15, 70, 25))
    elif scene == "city":
        fill(_Y < 96, (200, 170, 190))
        for left, top in ((4, 40), (28, 20), (52, 52), (74, 30)):
            fill((left <= _X) & (left + 18 > _X) & (top < _Y), (90, 90, 100))
    elif scene == "snow":
        fill(_Y < 96, (245, 248, 252))
        fill(_Y < 30, (205, 220, 235))
        fill((abs(_X - 48) < 10) & (abs(_Y - 52) < 14), (60, 110, 90))
    elif scene == "volcano":
        fill(_Y < 96, (60, 10, 10))
        fill(abs(_X - 48) < (_Y - 24), (20, 12, 12))
        fill((abs(_X - 48) < 9) & (_Y > 24), (250, 110, 20))
        fill(_Y > 78, (235, 70, 15))
    elif scene == "space":
        fill(_Y < 96, (12, 8, 48))
        fill(inside("disc", _X - 30, _Y - 34, 15.0), (190, 170, 240))
        fill((_X % 19 < 3) & (_Y % 17 < 3), (250, 250, 250))
    else:
        raise ValueError(f"no such scene: {scene!r}")
    return picture


PANORAMAS = {name: _panorama(name) for name in ("beach", "forest", "city", "snow", "volcano", "space")}
