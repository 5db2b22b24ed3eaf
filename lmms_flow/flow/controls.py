"""The controls: what stands beside a pathway, so that a difference means something. One list, which all others read.

A control is written as a flow of its own, without `+` and `@`. `single_frame` and the orders of frames are no flows but
full attention of other frames; they stand here since they are named, ordered and explained like the others.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Control:
    """One control.

    Args:
        name: the word that it is written with, or with which it begins.
        written: how it is written, with what follows the word.
        meaning: in a few words, for help and lists.
        place: among the arms of a table, smallest first; pathways are at 2, every other flow at 5.
        remark: what stands in brackets behind its name in a table.
        is_flow: whether it can be written where a flow is asked for.
    """

    name: str
    written: str
    meaning: str
    place: int
    remark: str = ""
    is_flow: bool = True

    @property
    def takes_more(self) -> bool:
        """Whether something follows the word: `random:0.58`."""
        return self.written != self.name

    def begins(self, text: str) -> bool:
        """Whether a flow is this control."""
        return self.is_flow and (text.startswith(f"{self.name}:") if self.takes_more else text == self.name)


NONE = Control("none", "none", "full attention, the model untouched", 0, "full attention")
SHAM = Control(
    "sham", "sham", "nothing cut, through the masked kernels: the numerical noise", 1, "nothing cut"
)
RANDOM = Control(
    "random",
    "random:SHARE[:seedN]",
    "that share of the edges, or as many as a preset cuts, drawn anywhere",
    3,
)
MIRRORED = Control("mirrored", "mirrored:PRESET", "the pathway with its layers counted from the end", 4)
BLIND = Control("blind", "blind", "the video is cut off", 6, "no video")
SINGLE_FRAME = Control(
    "single_frame", "single_frame", "full attention, the middle frame alone", 0, "single frame", is_flow=False
)
REVERSED = Control(
    "reversed", "reversed", "full attention, the last frame first", 0, "frames reversed", is_flow=False
)
SHUFFLED = Control(
    "shuffled",
    "shuffled:seedN",
    "full attention, frames in a random order",
    0,
    "frames shuffled",
    is_flow=False,
)
FROZEN = Control(
    "frozen",
    "frozen",
    "full attention, the middle frame in every place",
    0,
    "one frame throughout",
    is_flow=False,
)
FRAME_ORDERS = (REVERSED, SHUFFLED, FROZEN)
CONTROLS = (NONE, SHAM, RANDOM, MIRRORED, BLIND, SINGLE_FRAME, *FRAME_ORDERS)
PATHWAY, OTHER = 2, 5  # the places of what is no control
UNCUT = (NONE.name, SHAM.name)  # flows under which every edge is kept


def control_of(text: str) -> Control | None:
    """The control that a flow is, or None."""
    return next((control for control in CONTROLS if control.begins(text)), None)


def place_of(text: str) -> int:
    """Where an arm with this flow stands among others."""
    control = control_of(text)
    if control is not None:
        return control.place
    return PATHWAY if text.startswith("effective") else OTHER
