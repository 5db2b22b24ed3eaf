"""Restoration: which edges of the clip, given back while it plays backwards, bring the answer back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from ...plots import ZERO
from ...trace.curves import Among, Curve
from ..restorations import Restoration, restorations_of
from ..traces import Traced
from .curve_figures import curve_figure
from .map_section import target_sets
from .parts import Block, Section, asked_of, short_checkpoint
from .pictures import Picture, slug

LEAD = (
    "The clip is played backwards (pixels in reverse order, times and positions stay), and in the layers around each "
    "layer one kind of edge is given back: its target reads the source's keys and values of the clip as it is. Shown "
    "is how many percentage points of the answer's probability that brings back, with 95 % intervals from resampling "
    "whole clips; the dotted line is all that was lost."
)


def restoration_section(traced: Sequence[Traced], seed: int, commands: Sequence[str]) -> Section | None:
    """The section of all restorations; None where there is none."""
    blocks = tuple(_block(one, place, seed) for place, one in enumerate(restorations_of(traced)))
    return Section("restoration", "Restoration", LEAD, blocks, tuple(commands)) if blocks else None


def _block(one: Restoration, place: int, seed: int) -> Block:
    among: Among = "right" if any(sample.right for sample in one.samples) else "all"
    curves = {rule: one.curve(rule, among=among, seed=seed) for rule in one.knockouts}
    first, lost = next(iter(curves.values())), one.lost(among)
    said = "that full attention answers right" if among == "right" else "(full attention answers none right)"
    whose = asked_of(one.benchmark, one.checkpoint, one.frames, one.protocol)
    text = (
        f"{whose}: {one.style}, windows of {one.window} layers. "
        f"{first.questions} questions {said}, on {first.clips} clips. Played backwards, the answer loses {lost:.1f} "
        "points."
    )
    return Block(text=text, pictures=tuple(_pictures(one, curves, lost, place)))


def _pictures(one: Restoration, curves: dict[str, Curve], lost: float, place: int) -> Iterator[Picture]:
    for number, (title, rules) in enumerate(target_sets(one.knockouts), 1):
        shown = [curves[rule] for rule in rules]
        figure = curve_figure(shown, title, "brought back (points)")
        (axes,) = figure.axes
        axes.axhline(lost, color=ZERO, lw=1.0, ls=":", zorder=0)
        caption = f"{title.capitalize()}: what is brought back of the {lost:.1f} points that were lost."
        name = slug(one.benchmark, short_checkpoint(one.checkpoint), "restoration", place + 1, number)
        yield Picture(name, caption, f"{caption} {'; '.join(map(_highest, shown))}.", figure)


def _highest(curve: Curve) -> str:
    if not curve.questions or np.isnan(curve.mean).all():
        return f"{curve.knockout} has no questions"
    place = int(np.nanargmax(curve.mean))
    return f"{curve.knockout} brings most back at layer {curve.layers[place]}, {float(curve.mean[place]):.1f} points"
