"""Flow maps and the pathway that follows from them by the paper's rule."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from ...errors import FlowError
from ...flow.pathway import written
from ...flow.trace_settings import TARGET_SETS
from ...trace.bins import LayerBins
from ...trace.curves import Curve, FlowMap
from ..table import Column, Table
from .curve_figures import MINUS, curve_figure, lowest, pathway_figure, signed
from .glossary import words_of_edges
from .parts import Block, Section, asked_of
from .pictures import Picture, slug

PATHWAY = ("cross_frame", "video:question", "question:last")
TITLES: Mapping[str, str] = {
    "cross_frame": "across frames",
    "video_question_last": "video, question and last token",
    "options_to_last": "question and options to the last token",
    "video_to_true_option": "video to the true option",
    "video_to_false_options": "video to the false options",
}
SIDES = ("to_layer", "from_layer")  # the styles whose accuracies are the paper's Tables 2 and B


@dataclass(frozen=True)
class Drawn:
    """A map with its curves, once for all who read them."""

    map: FlowMap
    among: str
    curves: Mapping[str, Curve]
    name: str

    @classmethod
    def of(cls, flow_map: FlowMap, name: str, seed: int) -> Drawn:
        """The curves of the questions that full attention answers right, or of all where it answers none."""
        among = "right" if any(one.right for one in flow_map.samples) else "all"
        curves = {
            rule: flow_map.curve(rule, among="right" if among == "right" else "all", seed=seed)
            for rule in flow_map.knockouts
        }
        return cls(flow_map, among, curves, name)

    @property
    def title(self) -> str:
        """What was asked, in words."""
        one = self.map
        window = (
            f"windows of {one.window} layers"
            if one.style == "center"
            else f"{one.style}, {one.window} layers"
        )
        if one.style in SIDES:
            window = "all layers up to it" if one.style == "to_layer" else "it and all later layers"
        if one.how == "after_softmax":
            window += ", weights zeroed after the softmax"
        return f"{asked_of(one.benchmark, one.checkpoint, one.frames, one.protocol)}: {window}"

    def ranges(self) -> dict[str, LayerBins]:
        """The bins of the pathway's kinds of edges, where every layer was a centre of a window."""
        found = {}
        for rule in PATHWAY:
            if rule in self.map.knockouts and self.map.style == "center":
                try:
                    found[rule] = self.map.bins(rule, among="right" if self.among == "right" else "all")
                except FlowError:
                    continue
        return found


def map_section(drawn: Sequence[Drawn], more: Sequence[Block], commands: Sequence[str]) -> Section | None:
    """The section of all maps, with more that was made of them; None where there is none."""
    blocks = [block for one in drawn for block in _blocks(one)]
    if not blocks:
        return None
    protocol = "paper" if any(one.map.protocol == "paper" for one in drawn) else ""
    names = Block(words=words_of_edges((rule for one in drawn for rule in one.map.knockouts), protocol))
    lead = (
        "How much the probability of the answer changes when one kind of edge is cut in a window of layers. A point "
        "stands at the layer that is the centre of its window: the mean over questions of each one's relative "
        "change (−50 % is half of what it was), with 95 % intervals from resampling whole clips. Where a curve lies "
        "below zero, the answer needs these edges: information flows there. Each panel has a scale of its own."
    )
    return Section("maps", "Flow maps", lead, (names, *blocks, *more), tuple(commands))


def _blocks(one: Drawn) -> Iterator[Block]:
    pictures = tuple(_pictures(one))
    how_many = next(iter(one.curves.values())) if one.curves else None
    if how_many is None:
        return
    said = (
        "that full attention answers right" if one.among == "right" else "(full attention answers none right)"
    )
    text = f"{one.title}. {how_many.questions} questions {said}, on {how_many.clips} clips."
    yield Block(text=text, pictures=pictures)
    ranges = one.ranges()
    if ranges:
        yield Block(pictures=(_pathway(one, ranges),), table=_range_table(one, ranges))
        yield Block(table=_bin_table(one, ranges))


def target_sets(knockouts: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """The paper's target sets among the knockouts, and what belongs to none of them."""
    seen: set[str] = set()
    for name, rules in TARGET_SETS.items():
        if set(rules) <= set(knockouts):
            seen |= set(rules)
            yield TITLES.get(name, name), list(rules)
    rest = [rule for rule in knockouts if rule not in seen]
    for start in range(0, len(rest), 4):
        yield "other edges", rest[start : start + 4]


def _pictures(one: Drawn) -> Iterator[Picture]:
    for number, (title, rules) in enumerate(target_sets(one.map.knockouts), 1):
        curves = [one.curves[rule] for rule in rules]
        alt = f"Relative change of the answer's probability by layer, {title}: {'; '.join(map(lowest, curves))}."
        caption = f"{title.capitalize()}: relative change of the answer's probability."
        yield Picture(slug(one.name, "map", number), caption, alt, curve_figure(curves, title))


def _pathway(one: Drawn, ranges: Mapping[str, LayerBins]) -> Picture:
    kept = "; ".join(f"{rule} {_range(bins)}" for rule, bins in ranges.items())
    caption = (
        "The pathway over the layers, a row a kind of edge: mean change of each bin of "
        f"{next(iter(ranges.values())).width} layers, in per cent (the stronger the colour, the deeper the fall); "
        "the bar below a row is the range of layers that the paper's rule keeps."
    )
    figure = pathway_figure(list(ranges.items()), "pathway")
    return Picture(slug(one.name, "pathway"), caption, f"The pathway by the paper's rule: {kept}.", figure)


def _range(bins: LayerBins) -> str:
    kept = bins.effective()
    return f"in layers {kept[0]} to {kept[-1]}" if kept else "in no layer"


def _range_table(one: Drawn, ranges: Mapping[str, LayerBins]) -> Table:
    columns = (
        Column("edges", raw=("edges",), right=False),
        Column("kept in layers", raw=("layers",), right=False),
        Column("strongest at layer", raw=("strongest_layer",)),
        Column("change there", lambda value: signed(value), ("change",)),
    )
    rows = []
    for rule, bins in ranges.items():
        curve, kept = one.curves[rule], bins.effective()
        place = int(curve.mean.argmin())
        rows.append((rule, written(kept), curve.layers[place], float(curve.mean[place])))
    note = (
        f"The paper's rule: a bin of {next(iter(ranges.values())).width} neighbouring layers whose mean change lies "
        f"below {MINUS}5 % is effective; the range that is kept goes from the first effective bin to the last one."
    )
    return Table(
        "pathway", f"{one.title}: the paper's rule", columns, tuple(rows), (note,), one.map.benchmark
    )


def _bin_table(one: Drawn, ranges: Mapping[str, LayerBins]) -> Table:
    """The paper's Table E(b): the mean change in each bin of layers."""
    bins = next(iter(ranges.values()))
    names = [written(bins.layers(number)) for number in range(len(bins.means))]
    columns = [Column("edges", raw=("edges",), right=False)]
    columns += [Column(name, signed, (f"layers {name}",)) for name in names]
    rows = tuple((rule, *each.means) for rule, each in ranges.items())
    title = f"{one.title}: mean change in bins of {bins.width} layers"
    return Table("bins", title, tuple(columns), rows, (), one.map.benchmark)
