"""How good a way to choose edges is over all sizes: the areas CPR and CMD of the MIB benchmark."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Areas:
    """How faithful a way to choose edges is over all sizes (the yardsticks of the MIB benchmark).

    Faithfulness is the accuracy between that without the video (0) and that of full attention (1). `cpr` is the area
    below it over the share of edges kept: more is better. `cmd` is the area between it and 1: less is better.
    """

    cpr: float
    cmd: float


def areas(points: Iterable[tuple[float, float]], blind: float, full: float) -> Areas:
    """The areas of (share of edges kept, accuracy): no edge leaves the blind accuracy, all of them the full one."""
    span = full - blind
    if not span > 0:
        return Areas(float("nan"), float("nan"))
    best: dict[float, float] = {0.0: 0.0, 1.0: 1.0}
    for share, accuracy in points:
        best[share] = max(best.get(share, -np.inf), (accuracy - blind) / span)
    grid = np.linspace(0, 1, 1001)
    faithful = np.interp(grid, sorted(best), [best[share] for share in sorted(best)])
    return Areas(float(np.trapezoid(faithful, grid)), float(np.trapezoid(np.abs(1 - faithful), grid)))
