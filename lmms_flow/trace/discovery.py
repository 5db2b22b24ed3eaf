"""Which layers a pathway keeps: the paper's rule, from knockout curves to layer ranges (appendix H, Table E).

A knockout curve holds, for each layer, the mean relative change of the answer's probability when one kind of edge is
cut in the window around that layer. It is averaged over bins of layers; a bin whose mean lies below -5 % is effective,
and the kind of edge is kept from the first effective bin to the last.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..engine import SweepResult
from ..errors import FlowError
from ..flow.trace_settings import PAPER_WINDOW, scaled_to_depth

__all__ = ["EFFECTIVE", "PAPER_BIN", "PAPER_WINDOW", "LayerBins", "mean_relative_change", "scaled_to_depth"]

PAPER_BIN = 5  # layers that one mean is taken over
EFFECTIVE = -5.0  # per cent; a bin is effective if its mean change lies below


def mean_relative_change(results: Iterable[SweepResult]) -> Tensor:
    """The knockout curves of several samples' sweeps, in per cent: float64 [knockout, layer] (paper, section 2.2).

    The mean of each sample's own relative change, so a sample counts the same however sure the model was. Raises
    FlowError where there is no sample or the sweeps differ in their knockouts or layers.
    """
    swept = list(results)
    if not swept:
        raise FlowError("a knockout curve needs at least one sample")
    if len({(result.knockouts, result.layers) for result in swept}) > 1:
        raise FlowError("the sweeps differ in their knockouts or layers, so they have no common curve")
    return torch.stack([result.relative_change.double() for result in swept]).mean(0)


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
    def of(cls, curve: Sequence[float] | Tensor, width: int) -> LayerBins:
        """The means of a curve that has one value a layer."""
        values = torch.as_tensor(curve, dtype=torch.float64)
        parts = torch.split(values, max(1, width))
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
