"""Where the prompt looks: attention to the frames by layer, above the knockout of the same edges."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ...plots import style_of
from ...trace.curves import Curve
from .curve_figures import below, finish, heat, lowest
from .gathered import TARGETS, Gathered
from .map_section import Drawn
from .parts import Block
from .pictures import PANEL, Picture, slug

# The knockouts of the edges that a target's attention runs along.
SAME_EDGES = {
    "question": ("video:question",),
    "options": ("video:true_option", "video:false_options"),
    "last": ("video:last",),
}


def attention_block(one: Gathered, drawn: Sequence[Drawn]) -> Block | None:
    """A figure for each group that looks at the video; None where no attention was read out."""
    pictures = []
    for target in TARGETS:
        same = [
            each for each in one.attention.get(target, ()) if each.shape == one.attention[target][0].shape
        ]
        if same:
            pictures.append(_attention_picture(one, target, same, _knockouts(one, target, drawn)))
    return Block(pictures=tuple(pictures)) if pictures else None


def _knockouts(one: Gathered, target: str, drawn: Sequence[Drawn]) -> list[Curve]:
    """The curves of the same edges in the first map that has them, of questions that were asked alike."""
    asked = (one.checkpoint, one.benchmark, one.protocol, one.frames)
    for each in drawn:
        if (each.map.checkpoint, each.map.benchmark, each.map.protocol, each.map.frames) == asked:
            found = [each.curves[rule] for rule in SAME_EDGES[target] if rule in each.curves]
            if found:
                return found
    return []


def _frame(place: int, merged: int) -> str:
    """A frame by its number from 1; frames that are merged in the prompt by the first and the last of them."""
    return str(place + 1) if merged == 1 else f"{place * merged + 1}-{(place + 1) * merged}"


def _attention_picture(
    one: Gathered, target: str, rows: Sequence[NDArray[np.float64]], knockouts: Sequence[Curve]
) -> Picture:
    mean = np.stack(rows).mean(axis=0)
    height = PANEL[1] + (1.3 if knockouts else 0.0)
    figure = Figure(figsize=(PANEL[0], height), layout="constrained")
    ratios = [1.5, 1] if knockouts else [1]
    grid = figure.subplots(len(ratios), 1, sharex=True, squeeze=False, height_ratios=ratios)[:, 0]
    heat(figure, grid[0], 100 * mean.T, "attention (%)")
    frames = mean.shape[1]
    step = max(1, -(-frames // 12))
    grid[0].set_yticks(
        range(0, frames, step), [_frame(frame, one.merged) for frame in range(0, frames, step)]
    )
    grid[0].set_ylabel("frame" if one.merged == 1 else f"frames, {one.merged} in one")
    grid[0].set_title(f"{target} to video", loc="left")
    layer = int(mean.sum(axis=1).argmax())
    told = f"most in layer {layer + 1}, to frame {_frame(int(mean[layer].argmax()), one.merged)}"
    caption = f"{one.title}: {target} to video, {len(rows)} questions."
    if knockouts:
        for curve in knockouts:
            curve.draw(grid[1], style_of(curve.knockout), curve.knockout)
        what = knockouts[0].knockout if len(knockouts) == 1 else "the same edges"
        finish(grid[1], f"{what} cut", "change (%)", "layer")
        if len(knockouts) > 1:
            below(figure, len(knockouts))
        told += f"; under the knockout {'; '.join(map(lowest, knockouts))}"
    else:
        grid[0].set_xlabel("layer")
    name = slug(one.title, "attention", target)
    return Picture(name, caption, f"Attention of {target} to each frame by layer: {told}.", figure)
