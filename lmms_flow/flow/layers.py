"""Layer ranges as the paper writes them: counted from 1, both ends included."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..errors import FlowError, nearest

WORDS = ("all", "first_half", "second_half")
_RANGE = re.compile(r"(?P<first>[0-9]{1,6})?(?P<dash>-)?(?(dash)(?P<last>[0-9]{1,6})?)")


@dataclass(frozen=True)
class LayerRange:
    """A range of layers that does not know the model's depth yet; `bind` gives the layers themselves."""

    text: str = "all"

    def __post_init__(self) -> None:
        if self.text in WORDS:
            return
        match = _RANGE.fullmatch(self.text)
        if match is None or not (match["first"] or match["last"]):
            raise FlowError(
                f"layers {self.text!r} are not a range: write 6-20, 21-, -16, 7, all, first_half or second_half"
                + nearest(self.text, WORDS)
            )
        first, last = self._ends()
        if first == 0 or last == 0:
            raise FlowError(f"layers {self.text!r}: layers count from 1, there is no layer 0")
        if last is not None and first > last:
            raise FlowError(f"layers {self.text!r} run backwards: write {last}-{first}")

    def _ends(self) -> tuple[int, int | None]:
        match = _RANGE.fullmatch(self.text)
        assert match is not None  # __post_init__ has seen to it
        first = int(match["first"] or 1)
        if not match["dash"]:
            return first, first
        return first, int(match["last"]) if match["last"] else None

    def bind(self, num_layers: int) -> range:
        """The layers meant, as a `range` of layer numbers from 1. Raises FlowError for a layer that does not exist."""
        half = num_layers // 2
        if self.text == "all":
            return range(1, num_layers + 1)
        if self.text == "first_half":
            return range(1, half + 1)
        if self.text == "second_half":
            return range(half + 1, num_layers + 1)
        first, last = self._ends()
        last = num_layers if last is None else last
        if max(first, last) > num_layers:
            raise FlowError(f"layer {max(first, last)} does not exist, the model has layers 1-{num_layers}")
        return range(first, last + 1)


def mirror(layers: range, num_layers: int) -> range:
    """The range a-b moved to (L+1-b)-(L+1-a): as many layers, counted from the other end."""
    return range(num_layers + 1 - layers[-1], num_layers + 2 - layers[0])
