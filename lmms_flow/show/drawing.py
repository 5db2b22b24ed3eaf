"""Draws a flow: what is cut in which layers, and the mask of each kind of layer, groups to scale."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..flow import BoundFlow, Flow, Layout, ResolvedFlow
from ..flow.layout import BASE_GROUPS
from ..plots import CUT, KEPT, NEVER, draw_strips, literal

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_MASKS = 6


def layer_names(layers: tuple[int, ...]) -> str:
    """Layer numbers as ranges: (1, 2, 3, 7) is "1-3, 7"."""
    parts: list[list[int]] = []
    for layer in layers:
        if parts and layer == parts[-1][1] + 1:
            parts[-1][1] = layer
        else:
            parts.append([layer, layer])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in parts)


def draw_flow(flow: Flow, layout: Layout, num_layers: int, file: Path | None = None) -> Figure:
    """A strip of layers for each knockout, and below it the masks of the layers that differ.

    Args:
        flow: is drawn.
        layout: of the prompt.
        num_layers: of the model.
        file: into which the figure is written as well (.png, .svg, .pdf).
    """
    from matplotlib.figure import Figure

    resolved = flow.bind(num_layers).resolve(layout)
    kinds = _kinds(resolved)[:MAX_MASKS]
    kept, total = resolved.kept_edges()
    figure = Figure(figsize=(max(6.5, 2.9 * len(kinds)), 6.2), layout="constrained")
    parts: Any = figure.subfigures(2, 1, height_ratios=[1, 1.7])
    upper, lower = parts
    layer_strip(upper.subplots(), resolved.bound)
    for axes, (layers, layer) in zip(lower.subplots(1, len(kinds), squeeze=False)[0], kinds, strict=True):
        _mask(axes, resolved, layer, f"layers {layer_names(layers)}")
    share = f"{100 * kept / total:.1f} % of {total / 1e6:.1f}M edges kept"
    figure.suptitle(
        f"{literal(flow.name)}: {share} (groups of few tokens are drawn wider)", fontsize="medium"
    )
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(file, dpi=150)
    return figure


def _kinds(resolved: ResolvedFlow) -> list[tuple[tuple[int, ...], int]]:
    """The layers that share a mask, and one of them; a random control's layers differ all."""
    if resolved.draws:
        return [((layer,), layer) for layer in range(1, resolved.bound.num_layers + 1)]
    return [(layers, layers[0]) for _, layers in resolved.bound.distinct()]


def layer_strip(axes: Any, bound: BoundFlow) -> None:
    """Which edges are cut in which layers, a row for each kind of edge."""
    nothing = "nothing is cut" if bound.flow.random is None else "random draws"
    draw_strips(axes, bound.strips(), bound.num_layers, nothing)


def _mask(axes: Any, resolved: ResolvedFlow, layer: int, title: str) -> None:
    """One layer's mask. Groups of few tokens are drawn wider than they are, so that one sees them."""
    import numpy as np
    from matplotlib.colors import ListedColormap

    from ..engine.masks import keep_mask

    keep = keep_mask(resolved, layer).numpy()
    layout = resolved.layout
    repeat = np.ones(layout.num_tokens, dtype=int)
    for name in BASE_GROUPS:
        size = layout.size(name)
        if size:
            span = layout.groups[name][0]
            repeat[span.start : span.stop] = max(1, round(0.09 * layout.num_tokens / size))
    image = np.where(keep, 2, np.where(np.tri(layout.num_tokens, dtype=bool), 1, 0))
    image = image.repeat(repeat, axis=0).repeat(repeat, axis=1)
    axes.imshow(image, cmap=ListedColormap([NEVER, CUT, KEPT]), vmin=0, vmax=2, interpolation="nearest")
    edges = np.concatenate([[0], repeat.cumsum()])
    ticks, names = [], []
    for name in BASE_GROUPS:
        if layout.size(name):
            span = layout.groups[name][0]
            low, high = edges[span.start], edges[span.stop]
            ticks.append((low + high) / 2)
            names.append(name)
            axes.axhline(high - 0.5, color="#888888", lw=0.3)
            axes.axvline(high - 0.5, color="#888888", lw=0.3)
    axes.set_xticks(ticks, names, rotation=90, fontsize="x-small")
    axes.set_yticks(ticks, names, fontsize="x-small")
    axes.set_title(title, fontsize="small")
    axes.set_xlabel("key", fontsize="x-small")
    axes.set_ylabel("query", fontsize="x-small")
