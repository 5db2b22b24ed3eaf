"""A knockout's curve in bins of layers, and the layers that the paper's rule keeps (appendix H, Table E). No torch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from ..errors import FlowError

PAPER_BIN = 5  # layers that one mean is taken over
EFFECTIVE = -5.0  # per cent; a bin is effective if its mean change lies below


@dataclass(frozen=True)
class LayerBins:
    """A knockout curve in bins of `width` layers, the first from layer 1 on; the last may have fewer layers.

    `means` are in per cent, as in the paper's Table E(b).
    """

    means: tuple[float, ...]
    width: int
    num_layers: int

    def __post_init__(self) -> None:
        if self.width < 1:
            raise FlowError(f"a bin has at least one layer, not {self.width}")
        needed = -(-self.num_layers // self.width)
        if not needed or len(self.means) != needed:
            raise FlowError(
                f"{self.num_layers} layers in bins of {self.width} make {needed} bins, not {len(self.means)}"
            )

    @classmethod
    def of(cls, curve: Iterable[float], width: int) -> LayerBins:
        """The means of a curve that has one value a layer."""
        values = np.array([float(value) for value in curve])
        parts = [values[start : start + max(1, width)] for start in range(0, len(values), max(1, width))]
        return cls(tuple(float(part.mean()) for part in parts), width, len(values))

    def layers(self, number: int) -> range:
        """The layers of a bin (counted from 0), themselves counted from 1."""
        first = number * self.width + 1
        return range(first, min(first + self.width, self.num_layers + 1))

    def effective(self, below: float = EFFECTIVE) -> range:
        """The layers from the first to the last bin whose mean change lies below `below`; empty where none does.

        What lies between the two is kept as well, effective or not: a pathway has one range a kind of edge.
        """
        chosen = [number for number, mean in enumerate(self.means) if mean < below]
        if not chosen:
            return range(0)
        return range(self.layers(chosen[0])[0], self.layers(chosen[-1])[-1] + 1)
