"""What a clip shows, as small frozen values: the same value always renders to the same frames.

A clip has 32 frames in 8 blocks of 4. Sampling 8 frames at segment midpoints takes one frame of every block.
Blocks 3 and 4 are neutral in every kind of clip (things rest half-way, or nothing is shown), so the middle frame
is the same whatever the answer is, also when the clip is played backwards.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random

SIDE = 96  # pixels, frames are square
NUM_FRAMES = 32
FPS = 8
NUM_BLOCKS = 8
VISIBLE_BLOCKS = (0, 1, 2, 5, 6, 7)

COLOURS = ("red", "green", "blue", "yellow", "pink", "cyan")
SHAPES = ("disc", "square", "diamond")
SCENES = ("beach", "forest", "city", "snow", "volcano", "space")
DIRECTIONS = ("left", "right", "up", "down")
ACTIONS = ("grow", "shrink", "open", "close")
OPPOSITE = {
    "left": "right", "right": "left", "up": "down", "down": "up",
    "grow": "shrink", "shrink": "grow", "open": "close", "close": "open",
}  # fmt: skip
BACKGROUNDS = ((24, 24, 24), (56, 56, 56), (20, 28, 48), (48, 32, 20), (24, 44, 28), (40, 24, 44))


@dataclass(frozen=True)
class Motion:
    """One shape crosses the frame through (x, y), where it rests half-way."""

    direction: str
    colour: str
    shape: str
    background: int
    x: int
    y: int
    radius: int
    reach: int  # pixels from the resting place to either end

    def backwards(self) -> Motion:
        return replace(self, direction=OPPOSITE[self.direction])


@dataclass(frozen=True)
class Change:
    """One disc with a mouth changes its size or its mouth, and rests half-way."""

    action: str
    colour: str
    background: int
    x: int
    y: int
    radius: int
    facing: str  # where the mouth points

    def backwards(self) -> Change:
        return replace(self, action=OPPOSITE[self.action])


@dataclass(frozen=True)
class Thing:
    colour: str
    shape: str
    x: int
    y: int
    radius: int


@dataclass(frozen=True)
class Parade:
    """Things appear one after another, never together; one entry a block, None where nothing is shown."""

    things: tuple[Thing | None, ...]
    background: int

    def backwards(self) -> Parade:
        return replace(self, things=self.things[::-1])

    @property
    def order(self) -> list[str]:
        """The colours by first appearance."""
        return list(dict.fromkeys(thing.colour for thing in self.things if thing))


@dataclass(frozen=True)
class Scenery:
    """One scene, black, another scene."""

    first: str
    last: str
    offsets: tuple[int, int]  # where the panorama of each scene starts, in pixels
    pan: int  # pixels per frame, negative to the left

    def backwards(self) -> Scenery:
        travel = self.pan * (NUM_FRAMES - 1)
        offsets = ((self.offsets[1] + travel) % SIDE, (self.offsets[0] + travel) % SIDE)
        return Scenery(self.last, self.first, offsets, -self.pan)


Clip = Motion | Change | Parade | Scenery


def motion(rng: Random, direction: str) -> Motion:
    return Motion(
        direction=direction,
        colour=rng.choice(COLOURS),
        shape=rng.choice(SHAPES),
        background=rng.randrange(len(BACKGROUNDS)),
        x=SIDE // 2 + rng.randint(-6, 6),
        y=SIDE // 2 + rng.randint(-6, 6),
        radius=rng.randint(13, 18),
        reach=rng.randint(26, 32),
    )


def change(rng: Random, action: str) -> Change:
    return Change(
        action=action,
        colour=rng.choice(COLOURS),
        background=rng.randrange(len(BACKGROUNDS)),
        x=SIDE // 2 + rng.randint(-5, 5),
        y=SIDE // 2 + rng.randint(-5, 5),
        radius=rng.randint(24, 29),
        facing=rng.choice(DIRECTIONS),
    )


def thing(rng: Random, colour: str) -> Thing:
    radius = rng.randint(17, 24)
    return Thing(
        colour,
        rng.choice(SHAPES),
        rng.randint(radius, SIDE - radius),
        rng.randint(radius, SIDE - radius),
        radius,
    )


def spread(rng: Random, count: int) -> list[int]:
    """Which of `count` things each visible block shows, in order: each gets at least one block, 6 in all."""
    cuts = sorted(rng.sample(range(1, len(VISIBLE_BLOCKS)), count - 1))
    return [sum(block >= cut for cut in cuts) for block in range(len(VISIBLE_BLOCKS))]


def parade(rng: Random, colours: list[str], places: list[int], background: int | None = None) -> Parade:
    """A parade of `colours`, where the visible block b shows colours[places[b]]."""
    things = [thing(rng, colour) for colour in colours]
    shown: list[Thing | None] = [None] * NUM_BLOCKS
    for block, place in zip(VISIBLE_BLOCKS, places, strict=True):
        shown[block] = things[place]
    return Parade(tuple(shown), rng.randrange(len(BACKGROUNDS)) if background is None else background)


def scenery(rng: Random, first: str, last: str) -> Scenery:
    return Scenery(first, last, (rng.randrange(SIDE), rng.randrange(SIDE)), rng.choice((-1, 1)))
