"""What was found, in three sentences made from the numbers: accuracy, where information flows, what failed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..board import Board, Entry
from ..table import percent
from .curve_figures import signed
from .failures import repairs
from .glossary import cut_of, way_of
from .map_section import PATHWAY, Drawn
from .parts import joined, short_checkpoint


def findings(board: Board, drawn: Sequence[Drawn]) -> tuple[str, str, str]:
    """Three sentences on one benchmark."""
    own = [one for one in drawn if one.map.benchmark == board.benchmark]
    return _accuracy(board), _flow(board, own), _failures(board)


def _accuracy(board: Board) -> str:
    entry = _first(board)
    score = entry.accuracy
    who = short_checkpoint(entry.arm.checkpoint)
    if not score.total:
        return f"None of {board.benchmark}'s questions could be scored for {who}."
    low, high = score.interval
    said = (
        f"{who} answers {percent(score.value)} % [{percent(low)}, {percent(high)}] of {score.total} questions of "
        f"{board.benchmark} right under {_called(entry)}"
    )
    sparse = _sparsest_equal(board)
    if sparse is None:
        return f"{said}{_guessing(entry)}."
    test = sparse.test
    assert test is not None
    return (
        f"{said}; {sparse.name} keeps {percent(sparse.arm.share_kept)} % of the attention edges and changes that by "
        f"{_points(test.difference)}, shown to be within ±{100 * board.settings.margin:g} points."
    )


def _first(board: Board) -> Entry:
    """Full attention on the most questions where it was run, else the first arm."""
    full = [entry for entry in board.entries if entry.arm.is_baseline and entry.baseline is None]
    return max(full or board.entries, key=lambda entry: entry.accuracy.total)


def _called(entry: Entry) -> str:
    return "full attention" if entry.arm.is_baseline and entry.baseline is None else entry.name


def _guessing(entry: Entry) -> str:
    chance = entry.arm.chance()
    return "" if np.isnan(chance) else f", where guessing gives {percent(chance)} %"


def _sparsest_equal(board: Board) -> Entry | None:
    """The arm with the fewest edges whose accuracy is shown to be full attention's."""
    equal = [
        entry
        for entry in board.entries
        if entry.test is not None
        and entry.arm.share_kept < 1
        and entry.test.equivalence(board.settings.margin) < 0.05
    ]
    return min(equal, key=lambda entry: entry.arm.share_kept, default=None)


def _points(change: float) -> str:
    return f"{signed(100 * change).removesuffix(' %')} points"


def _flow(board: Board, drawn: Sequence[Drawn]) -> str:
    for one in drawn:
        ranges = {rule: bins.effective() for rule, bins in one.ranges().items()}
        if any(ranges.values()):
            parts = [
                f"{_way(rule)} in layers {kept[0]} to {kept[-1]}"
                for rule, kept in ranges.items()
                if kept and rule in PATHWAY
            ]
            rule = min(one.curves, key=lambda name: float(np.nanmin(one.curves[name].mean)))
            curve = one.curves[rule]
            place = int(np.nanargmin(curve.mean))
            return (
                f"By the rule of the paper Map the Flow, information flows {joined(parts)}. Cutting {rule} around "
                f"layer {curve.layers[place]}{_so_that(rule)} has the strongest effect: the answer's probability "
                f"changes by {signed(float(curve.mean[place]))} of what it was, in the mean of {curve.questions} "
                "questions."
            )
    tested = [entry for entry in board.entries if entry.test is not None and entry.arm.share_kept < 1]
    if not tested:
        return "No flow was cut beside full attention, so nothing is known of where information flows."
    worst = min(tested, key=lambda entry: entry.test.difference if entry.test else 0.0)
    assert worst.test is not None
    p = worst.test.p_value
    said = "is more than chance explains" if p < 0.05 else "may be chance"
    how = "p by sign flips over videos" if board.shares_videos else "McNemar's p"
    seen = worst.test.detectable
    least = f"; a change from {percent(seen)} points on would have shown" if p >= 0.05 and seen < 1 else ""
    return (
        f"Of the {len(tested)} arms that cut edges, {worst.name} costs most accuracy: "
        f"{_points(worst.test.difference)} on {worst.test.common} questions, which {said} ({how} = {p:.2g}{least})."
    )


def _way(rule: str) -> str:
    return f"{way_of(rule)} ({rule})"


def _so_that(rule: str) -> str:
    cut = cut_of(rule)
    return f", so that {cut} there," if cut else ""


def _failures(board: Board) -> str:
    found = [one for one in repairs(board) if not one.entry.arm.is_sham and one.entry.arm.share_kept < 1]
    if not found:
        entry = _first(board)
        wrong = entry.accuracy.total - entry.accuracy.right
        if not wrong:
            return (
                f"{_called(entry).capitalize()} answers none of them wrong, so there is no wrong answer for a cut to "
                "repair."
            )
        return f"{_called(entry).capitalize()} answers {wrong} questions wrong, and no cut was tried on them."
    best = max(found, key=lambda one: (one.share.value, -one.lost))
    if not best.repaired:
        return f"None of the cuts repairs any of the {best.wrong} wrong answers of full attention."
    return (
        f"Of the {best.wrong} questions that full attention answers wrong, {best.entry.name} repairs the most, "
        f"{best.repaired} ({100 * best.share.value:.0f} %), and breaks {best.lost} right ones."
    )
