"""What a search found, as a flow's file, as tables and as a figure of accuracy against size."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .discover import Discovery, flow_file
from .search_runs import Held, Outcome
from .table import Column, Table

_NAMES = {
    "search": "search",
    "rule": "the paper's rule, closed",
    "random": "random pathways of the search's sizes",
}
_COLOURS = {"search": "#0072B2", "rule": "#D55E00", "random": "#666666"}
_MARKS = {"search": "o", "rule": "s", "random": "x"}


def searched_file(
    discovery: Discovery, outcome: Outcome, margin: float, name: str, command: Sequence[str]
) -> dict[str, Any]:
    """The content of the flow's YAML file: the sparsest pathway, and beside the rule's provenance how it did.

    Args:
        discovery: of the rule, from which the search started.
        outcome: of the search.
        margin: within which it is equivalent.
        name: of the flow.
        command: that made it.
    """
    content = flow_file(discovery, name, command)
    best = next(each for each in outcome.of("search") if each.name == str(outcome.found.best))
    score = best.score
    p_value = score.paired.equivalence(margin)
    said = [
        "Searched on: the sparsest closed pathway that answers the calibration questions as full attention does.",
        f"held out: {score.paired.common} questions, accuracy {best.accuracy:.1%}, difference "
        f"{score.paired.difference * 100:+.1f} points, within {margin * 100:g} points with p = {p_value:.3g}",
        f"keeps {score.edges:.1%} of the edges and {score.flops:.1%} of the FLOPs",
    ]
    comment = content["comment"].replace("Found by", "Started from what was found by", 1)
    return content | {"comment": comment + "\n".join(said) + "\n"} | outcome.found.best.content


def tables_of(outcome: Outcome, margin: float) -> list[Table]:
    """The arms on the held-out questions, and the areas of each way to choose edges."""
    arms = tuple(
        _row(each, margin) for kind in ("search", "rule", "random", "control") for each in outcome.of(kind)
    )
    columns = ("arm", "edges", "FLOPs", "accuracy", "difference", f"within {margin * 100:g} points, p")
    made = ((_NAMES[kind], f"{found.cpr:.3f}", f"{found.cmd:.3f}") for kind, found in outcome.areas.items())
    notes = (
        "CPR: area below the faithfulness over the share of edges kept (more is better); CMD: area between it and 1 "
        "(less is better)",
    )
    return [
        Table("search", "held-out questions", tuple(map(Column, columns)), arms),
        Table("areas", "over all sizes", tuple(map(Column, ("edges by", "CPR", "CMD"))), tuple(made), notes),
    ]


def _row(each: Held, margin: float) -> tuple[str, ...]:
    score = each.score
    shares = (f"{value:.1%}" for value in (score.edges, score.flops, each.accuracy))
    difference = f"{score.paired.difference * 100:+.1f}"
    return (f"{each.kind}: {each.name}", *shares, difference, f"{score.paired.equivalence(margin):.3g}")


def write_figure(outcome: Outcome, file: Path) -> Path:
    """Accuracy on held-out questions against the share of edges, and of FLOPs, that an arm keeps."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for axes, name in ((left, "edges"), (right, "flops")):
        for kind, said in _NAMES.items():
            arms = outcome.of(kind)
            shares = [getattr(each.score, name) * 100 for each in arms]
            line = "-" if kind != "random" else ""
            axes.plot(
                shares,
                [each.accuracy * 100 for each in arms],
                line,
                marker=_MARKS[kind],
                color=_COLOURS[kind],
                label=said,
            )
        axes.axhline(_full(outcome) * 100, color="#999999", linewidth=0.8)
    left.set(xlabel="edges kept, %", ylabel="accuracy on held-out questions, %")
    right.set(xlabel="FLOPs of the computed rows, %")
    left.legend(fontsize="small")
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=150)
    return file


def _full(outcome: Outcome) -> float:
    """The accuracy of full attention on the held-out questions."""
    paired = outcome.held[0].score.paired
    return paired.right / paired.common
