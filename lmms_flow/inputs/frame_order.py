"""Frames in another order than they were filmed in: whether an answer depends on it is a control of every benchmark.

The pixels change places; what the prompt says of times, and the positions of the tokens, stay as they are. So the model
is told the same and shown something else.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

import numpy as np

from lmms_flow.errors import UserError, nearest
from lmms_flow.flow.controls import FRAME_ORDERS

from .clip import Frames

REVERSED, SHUFFLED, FROZEN = ORDERS = tuple(control.name for control in FRAME_ORDERS)
_WRITTEN = re.compile(r"(?P<name>[a-z]+)(:seed(?P<seed>[0-9]{1,9}))?")


@dataclass(frozen=True)
class FrameOrder:
    """An order of frames.

    Args:
        name: `reversed` is the last frame first, `shuffled` a random order, `frozen` the middle frame in every place.
        seed: of a random order. Each clip has an order of its own, always the same one under one seed.
    """

    name: str
    seed: int = 0

    @classmethod
    def parse(cls, text: str) -> FrameOrder:
        """Reads `reversed`, `frozen`, `shuffled` or `shuffled:seed1`. Raises UserError, one line, for anything else."""
        match = _WRITTEN.fullmatch(text)
        if match is None or match["name"] not in ORDERS or (match["seed"] and match["name"] != SHUFFLED):
            valid = (REVERSED, FROZEN, f"{SHUFFLED}:seed1")
            raise UserError(f"frame_order {text!r} is none{nearest(text, valid)} (write {', '.join(valid)})")
        return cls(match["name"], int(match["seed"] or 0))

    def __str__(self) -> str:
        return f"{self.name}:seed{self.seed}" if self.name == SHUFFLED else self.name

    def places(self, num_frames: int, clip: str = "") -> tuple[int, ...]:
        """Which frame is shown in each place, from 0; a shuffled clip of two frames or more is never as it was.

        Args:
            num_frames: how many there are.
            clip: hex digits that tell the clip from others (:func:`lmms_flow.records.key.clip_digest`).
        """
        if self.name == REVERSED:
            return tuple(range(num_frames - 1, -1, -1))
        if self.name == FROZEN:
            return ((num_frames - 1) // 2,) * num_frames
        draws = np.random.default_rng((self.seed, num_frames, int(clip or "0", 16)))
        filmed = tuple(range(num_frames))
        while num_frames > 1:
            found = tuple(map(int, draws.permutation(num_frames)))
            if found != filmed:
                return found
        return filmed

    def apply(self, frames: Frames, clip: str = "") -> Frames:
        """The same indices and times with other pixels; `displayed` says which frames those are."""
        places = self.places(len(frames.indices), clip)
        return replace(frames, pixels=frames.pixels[list(places)], places=places)
