"""What cuts in the first layers and in the last ones cost: the accuracy among full attention's right answers.

In a map of the style `to_layer` all layers up to the centre are cut, in one of `from_layer` the centre and all later
ones. The table holds the paper's halves (Tables 2 and B), a column a sub-task; the figures every other place to divide.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from ...trace.curves import FlowMap
from ..table import Column, Table, change_with_interval
from .curve_figures import curve_figure, lowest
from .map_section import SIDES, Drawn, target_sets
from .parts import Block, asked_of
from .pictures import Picture, slug

NOTE = (
    "Change of the accuracy among the questions that full attention answers right, in points, with 95 % intervals from "
    "resampling whole clips. Of an odd number of layers the middle one is in the second half."
)


def halves(drawn: Sequence[Drawn], seed: int) -> Iterator[Block]:
    """A block of each checkpoint and benchmark with such maps: the table, and a figure of each map and target set."""
    groups: dict[tuple[object, ...], list[Drawn]] = {}
    for one in drawn:
        if one.map.style in SIDES and one.map.among("right").samples:
            alike = replace(one.map, style="", window=0, centres=(), knockouts=(), samples=())
            groups.setdefault(alike.asked, []).append(one)
    for maps in groups.values():
        pictures = tuple(picture for one in maps for picture in _pictures(one, seed))
        yield Block(text=NOTE, pictures=pictures, table=_table(maps, seed))


def _pictures(one: Drawn, seed: int) -> Iterator[Picture]:
    side = "up to" if one.map.style == "to_layer" else "from"
    for number, (title, rules) in enumerate(target_sets(one.map.knockouts), 1):
        curves = [one.map.accuracy_change(rule, seed=seed) for rule in rules]
        figure = curve_figure(curves, title, "change of accuracy (%)", f"cut in all layers {side} this one")
        caption = f"{title.capitalize()}, cut in all layers {side} each: change of the accuracy."
        alt = f"{caption} {'; '.join(map(lowest, curves))}."
        yield Picture(slug(one.name, "accuracy", one.map.style, number), caption, alt, figure)


def half_of(style: str, num_layers: int) -> tuple[int, range]:
    """The centre of a map of this style whose cut is a half of the layers, and the layers of that half."""
    middle = num_layers // 2
    return (
        (middle, range(1, middle + 1))
        if style == "to_layer"
        else (middle + 1, range(middle + 1, num_layers + 1))
    )


def _table(maps: Sequence[Drawn], seed: int) -> Table:
    """Rows are edges and halves, columns sub-tasks. An empty cell was not asked, or not in this half."""
    first = maps[0].map
    tasks = sorted({task for one in maps for task in one.map.subtasks})
    columns = [
        Column("edges", raw=("edges",), right=False),
        Column("cut in layers", raw=("layers",), right=False),
    ]
    columns.append(Column("all", change_with_interval, ("all", "all_low", "all_high")))
    for task in tasks if len(tasks) > 1 else ():
        columns.append(Column(task, change_with_interval, (task, f"{task}_low", f"{task}_high")))
    rows = []
    for rule in dict.fromkeys(rule for one in maps for rule in one.map.knockouts):
        for one in sorted(maps, key=lambda each: SIDES.index(each.map.style)):
            centre, layers = half_of(one.map.style, one.map.num_layers)
            if rule not in one.map.knockouts or centre not in one.map.centres:
                continue
            parts = [one.map, *(one.map.part(task) for task in tasks if len(tasks) > 1)]
            cells = (_change(part, rule, centre, seed) for part in parts)
            rows.append((rule, f"{layers[0]}-{layers[-1]}", *cells))
    whose = asked_of(first.benchmark, first.checkpoint, first.frames, first.protocol)
    title = f"{whose}: accuracy with half of the layers cut"
    return Table("halves", title, tuple(columns), tuple(rows), (), first.benchmark)


def _change(part: FlowMap, rule: str, centre: int, seed: int) -> tuple[float, float, float] | None:
    """Mean, low and high as shares; None where full attention answers none of the questions right."""
    curve = part.accuracy_change(rule, seed=seed)
    if not curve.questions:
        return None
    place = curve.layers.index(centre)
    return tuple(float(values[place]) / 100 for values in (curve.mean, curve.low, curve.high))  # type: ignore[return-value]
