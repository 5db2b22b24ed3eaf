"""Figures of the paper's grammar: layers from 1 on x, per cent on y, a band around each line, a grey line at zero."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ...plots import KEPT, WINDOWS, ZERO, draw_zero, literal, style_of
from ...trace.bins import LayerBins
from ...trace.curves import Curve
from .pictures import PANEL

MINUS = "−"
LEAST = 4.0  # per cent that a panel spans at the least


def signed(value: float, digits: int = 1) -> str:
    """A change in per cent as it is written: `−12.3 %`; what rounds to nothing has no sign."""
    written = f"{value:+.{digits}f}"
    return f"{written if float(written) else written[1:]} %".replace("-", MINUS)


def curve_figure(
    curves: Sequence[Curve], title: str, ylabel: str = "relative change (%)", xlabel: str = WINDOWS
) -> Figure:
    """Curves of one target set in one panel."""
    figure = Figure(figsize=PANEL, layout="constrained")
    axes = figure.subplots()
    for place, curve in enumerate(curves):
        curve.draw(axes, style_of(curve.knockout, place), curve.knockout)
    finish(axes, title, ylabel, xlabel)
    below(figure, len(curves))
    return figure


def finish(axes: Any, title: str, ylabel: str, xlabel: str = WINDOWS) -> None:
    """Zero line, whole layers on x; what is hardly there does not fill the panel."""
    low, high = axes.get_ylim()
    if high - low < LEAST:
        axes.set_ylim(min(low, -0.75 * LEAST) if high <= 0.25 * LEAST else low, max(high, 0.25 * LEAST))
    draw_zero(axes, xlabel, ylabel)
    axes.set_title(literal(title), loc="left")
    axes.grid(axis="y", color=ZERO, alpha=0.25, lw=0.6)


def below(figure: Figure, number: int) -> None:
    """The legend, under the panel, in two columns."""
    if number:
        figure.legend(loc="outside lower center", ncols=min(2, number), fontsize="small", handlelength=2.6)


def lowest(curve: Curve) -> str:
    """`video:question falls most at layer 7, by 35.1 %`, for who does not see the curve."""
    if not curve.questions or np.isnan(curve.mean).all():
        return f"{curve.knockout} has no questions"
    place = int(np.nanargmin(curve.mean))
    return f"{curve.knockout} is lowest at layer {curve.layers[place]}, {signed(float(curve.mean[place]))}"


def pathway_figure(bins: Sequence[tuple[str, LayerBins]], title: str) -> Figure:
    """Each kind of edge over the layers: the mean change of each bin, and the range that the paper's rule keeps."""
    figure = Figure(figsize=(PANEL[0], 0.9 + 0.55 * len(bins)), layout="constrained")
    axes = figure.subplots()
    deepest = max((abs(mean) for _, each in bins for mean in each.means), default=1.0) or 1.0
    for row, (rule, each) in enumerate(bins):
        style = style_of(rule, row)
        for number, mean in enumerate(each.means):
            layers = each.layers(number)
            alpha = 0.08 + 0.5 * min(1.0, max(0.0, -mean) / deepest)
            axes.barh(row, len(layers), left=layers[0] - 0.5, height=0.62, color=style.colour, alpha=alpha)
            if len(each.means) <= 10:
                middle = (layers[0] + layers[-1]) / 2
                axes.text(
                    middle, row, f"{round(mean)}".replace("-", MINUS), ha="center", va="center", fontsize=7
                )
        kept = each.effective()
        if kept:
            axes.plot(
                [kept[0] - 0.5, kept[-1] + 0.5],
                [row + 0.4] * 2,
                color=style.colour,
                lw=3,
                solid_capstyle="butt",
            )
    axes.set_yticks(range(len(bins)), [rule for rule, _ in bins])
    axes.set_ylim(len(bins) - 0.4, -0.5)
    num_layers = max((each.num_layers for _, each in bins), default=1)
    axes.set_xlim(0.4, num_layers + 0.6)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.set_xlabel("layer")
    axes.set_title(literal(title), loc="left")
    return figure


def heat(figure: Figure, axes: Any, values: Any, label: str, first_layer: int = 1) -> None:
    """A map of [row, layer], layers from `first_layer` on x; its colours grow lighter in every kind of sight."""
    rows, layers = values.shape
    extent = (first_layer - 0.5, first_layer + layers - 0.5, rows - 0.5, -0.5)
    image = axes.imshow(values, cmap="cividis", aspect="auto", interpolation="none", extent=extent)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    bar = figure.colorbar(image, ax=axes, pad=0.02)
    bar.set_label(label)
    bar.outline.set_visible(False)


def share_figure(
    names: Sequence[str], values: Sequence[float], intervals: Sequence[tuple[float, float]], xlabel: str
) -> Figure:
    """Shares in per cent with their intervals, a row each."""
    figure = Figure(figsize=(PANEL[0], 0.9 + 0.24 * len(names)), layout="constrained")
    axes = figure.subplots()
    for row, (value, (low, high)) in enumerate(zip(values, intervals, strict=True)):
        bars = [[100 * max(0.0, value - low)], [100 * max(0.0, high - value)]]
        axes.errorbar(100 * value, row, xerr=bars, fmt="o", ms=4, capsize=2, elinewidth=1.2, color=KEPT)
    axes.set_yticks(range(len(names)), [literal(name) for name in names], fontsize=7.5)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlabel(xlabel)
    axes.grid(axis="x", color=ZERO, alpha=0.25, lw=0.6)
    return figure
