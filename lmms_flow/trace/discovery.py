"""Which layers a pathway keeps: the paper's rule, from knockout curves to layer ranges (appendix H, Table E).

A knockout curve holds, for each layer, the mean relative change of the answer's probability when one kind of edge is
cut in the window around that layer. It is averaged over bins of layers; a bin whose mean lies below -5 % is effective,
and the kind of edge is kept from the first effective bin to the last.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import reduce
from operator import add
from typing import TYPE_CHECKING

from ..errors import FlowError
from ..flow.trace_settings import PAPER_WINDOW, scaled_to_depth
from .bins import EFFECTIVE, PAPER_BIN, LayerBins

if TYPE_CHECKING:  # what reads a map that ran needs no torch
    from torch import Tensor

    from ..engine import SweepResult

__all__ = ["EFFECTIVE", "PAPER_BIN", "PAPER_WINDOW", "LayerBins", "mean_relative_change", "scaled_to_depth"]


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
    return reduce(add, (result.relative_change.double() for result in swept)) / len(swept)
