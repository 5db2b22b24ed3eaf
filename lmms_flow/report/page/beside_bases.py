"""Maps of several checkpoints in one figure, such as a VideoLLM and its image-only base (the paper's Fig 2)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from matplotlib.figure import Figure

from ...errors import FlowError
from ...plots import other_style
from ...trace.curves import Curve, on_common_questions
from .curve_figures import below, finish, lowest
from .map_section import Drawn
from .parts import Block, short_checkpoint
from .pictures import PANEL, Picture, slug

MOST = 6  # checkpoints of a figure
RULE = "cross_frame"  # what an image-only model can't have learnt


def beside_their_bases(drawn: Sequence[Drawn], seed: int) -> Iterator[Block]:
    """A figure for each benchmark and kind of window that several checkpoints were asked, on the questions of all."""
    alike: dict[tuple[object, ...], list[Drawn]] = {}
    for one in drawn:
        if RULE in one.map.knockouts:
            asked = (
                one.map.benchmark,
                one.map.protocol,
                one.map.frames,
                one.map.style,
                one.map.window,
                one.map.how,
            )
            alike.setdefault(asked, []).append(one)
    for maps in alike.values():
        latest = {one.map.checkpoint: one for one in maps}
        if len(latest) > 1:
            yield _block(list(latest.values())[:MOST], seed)


def _block(maps: Sequence[Drawn], seed: int) -> Block:
    names = [short_checkpoint(one.map.checkpoint) for one in maps]
    benchmark = maps[0].map.benchmark
    try:
        common = on_common_questions([one.map for one in maps])
    except FlowError:
        return Block(text=f"The maps of {' and '.join(names)} on {benchmark} have no question in common.")
    asked = len(common[0].samples)
    curves = []
    for each in common:
        among = "right" if each.among("right").samples else "all"
        curves.append(each.curve(RULE, among="right" if among == "right" else "all", seed=seed))
    text = (
        f"{' and '.join(names)} on the {asked} questions of {benchmark} that all of them were asked; each curve is the "
        f"mean over what its checkpoint answers right ({', '.join(str(curve.questions) for curve in curves)})."
    )
    name = slug("bases", benchmark, maps[0].map.style, maps[0].map.window, maps[0].map.how)
    return Block(text=text, pictures=(_picture(name, benchmark, names, curves),))


def _picture(name: str, benchmark: str, names: Sequence[str], curves: Sequence[Curve]) -> Picture:
    figure = Figure(figsize=PANEL, layout="constrained")
    axes = figure.subplots()
    for place, (label, curve) in enumerate(zip(names, curves, strict=True)):
        curve.draw(axes, other_style(place), label)
    finish(axes, f"{RULE} on {benchmark}", "relative change (%)")
    below(figure, len(curves))
    caption = f"What frames read of earlier frames, in {len(curves)} checkpoints on {benchmark}."
    told = "; ".join(f"{label}: {lowest(curve)}" for label, curve in zip(names, curves, strict=True))
    return Picture(name, caption, f"{caption} {told}.", figure)
