"""Failure analysis: of what full attention answers wrong, which cut repairs it (the paper's Figs 10 and AA).

Case 1: the probability of the wrong answer falls under a cut, so the cut edges carried the mistake. Case 2: it rises,
so they spoke against it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from matplotlib.figure import Figure

from ...plots import other_style
from ...trace.curves import Curve, FlowMap, mean_by_clip
from ..arms import ScoredSample
from ..board import Board, Entry
from ..statistics import Accuracy, share
from ..table import Column, Table, with_interval
from .curve_figures import MINUS, below, finish, lowest, share_figure, signed
from .map_section import Drawn
from .parts import Block, Section
from .pictures import PANEL, Picture, slug

LEAD = (
    "Of the questions that full attention answers wrong, which cut repairs them: turns the answer right. Case 1: "
    "the probability of the wrong answer falls under the cut; case 2: it rises. What a cut repairs must be held "
    "against what it breaks, and against the sham and random controls: chance repairs some answers too."
)


@dataclass(frozen=True)
class Repair:
    """An arm on the questions that its baseline answers wrong.

    `share` is that of the repaired ones. `falls` and `rises` count those whose wrong answer became less and more
    probable (cases 1 and 2), `change` is the mean change of its probability in points; the three are of the questions
    whose probabilities are known.
    """

    entry: Entry
    share: Accuracy
    wrong: int
    repaired: int
    otherwise: int  # wrong in another way
    lost: int  # of those that the baseline answers right
    falls: int
    rises: int
    change: float


def repairs(board: Board) -> list[Repair]:
    """Every arm that has a baseline which answers something wrong, in the board's order."""
    found = (_repair(entry) for entry in board.entries if entry.baseline is not None)
    return [one for one in found if one.wrong]


def _repair(entry: Entry) -> Repair:
    assert entry.baseline is not None
    pairs = [
        (before, after)
        for place, before in entry.baseline.arm.samples.items()
        if before.correct is False and (after := entry.arm.samples.get(place)) and after.correct is not None
    ]
    changes = [change for before, after in pairs if (change := _change(before, after)) is not None]
    return Repair(
        entry,
        share([bool(after.correct) for _, after in pairs], [after.cluster for _, after in pairs]),
        wrong=len(pairs),
        repaired=sum(bool(after.correct) for _, after in pairs),
        otherwise=sum(flip.kind == "other" for flip in entry.flips),
        lost=sum(flip.kind == "lost" for flip in entry.flips),
        falls=sum(change < 0 for change in changes),
        rises=sum(change > 0 for change in changes),
        change=float(np.mean(changes)) if changes else float("nan"),
    )


def _change(before: ScoredSample, after: ScoredSample) -> float | None:
    """By how much the probability of the baseline's answer changed; None where it is not known."""
    letter = letter_of(before)
    if letter is None or letter not in after.options:
        return None
    return after.options[letter] - before.options[letter]


def letter_of(sample: ScoredSample) -> str | None:
    """The option that was answered; of an answer that is no letter, None."""
    word = sample.answer.strip().strip("().:")[:1]
    return word if word in sample.options else None


def failure_section(
    boards: Sequence[Board], drawn: Sequence[Drawn], commands: Sequence[str]
) -> Section | None:
    """The section; None where nothing was answered wrong, or nothing was cut."""
    blocks = [block for board in boards for block in _of_board(board)]
    blocks += [block for one in drawn for block in _of_map(one)]
    return (
        Section("failures", "Failures and what repairs them", LEAD, tuple(blocks), tuple(commands))
        if blocks
        else None
    )


def _of_board(board: Board) -> Iterator[Block]:
    found = repairs(board)
    if not found:
        return
    scores = [one.share for one in found]
    names = [one.entry.name for one in found]
    figure = share_figure(names, [s.value for s in scores], [s.interval for s in scores], "repaired (%)")
    told = "; ".join(f"{name} {100 * score.value:.0f} %" for name, score in zip(names, scores, strict=True))
    caption = (
        f"{board.benchmark}: share of the baseline's wrong answers that each arm repairs, 95 % intervals."
    )
    picture = Picture(slug(board.benchmark, "repairs"), caption, f"Wrong answers repaired: {told}.", figure)
    yield Block(pictures=(picture,), table=_repair_table(board, found))


def _repair_table(board: Board, found: Sequence[Repair]) -> Table:
    columns = (
        Column("arm", right=False, raw=("arm",)),
        Column("baseline wrong", raw=("wrong",)),
        Column("repaired", raw=("repaired",)),
        Column("share [95 %]", with_interval, ("share", "share_low", "share_high")),
        Column("wrong otherwise", raw=("wrong_otherwise",)),
        Column("right, now lost", raw=("lost",)),
        Column("case 1: falls", raw=("case_1",)),
        Column("case 2: rises", raw=("case_2",)),
        Column("change (points)", lambda value: f"{100 * value:+.1f}".replace("-", MINUS), ("change",)),
    )
    rows = tuple(
        (
            one.entry.name,
            one.wrong,
            one.repaired,
            (one.share.value, *one.share.interval),
            one.otherwise,
            one.lost,
            one.falls,
            one.rises,
            None if np.isnan(one.change) else one.change,
        )
        for one in found
    )
    return Table(
        "repairs", f"{board.benchmark}: what repairs wrong answers", columns, rows, (), board.benchmark
    )


# By the map: every window of layers


def _of_map(one: Drawn) -> Iterator[Block]:
    wrong = one.map.among("wrong")
    if not wrong.samples:
        return
    pictures = tuple(_case_picture(one, wrong, rule) for rule in one.map.knockouts[:4])
    yield Block(
        text=f"{one.title}. {len(wrong.samples)} wrong answers.",
        pictures=pictures,
        table=_case_table(one, wrong),
    )


def cases(wrong: FlowMap, rule: str) -> tuple[FlowMap, FlowMap]:
    """The wrong answers whose probability falls and rises under a knockout, in the mean over all windows."""
    place = wrong.place(rule)
    changes = [float(sample.relative_change("answer")[place].mean()) for sample in wrong.samples]
    falls = tuple(one for one, change in zip(wrong.samples, changes, strict=True) if change < 0)
    rises = tuple(one for one, change in zip(wrong.samples, changes, strict=True) if change > 0)
    return replace(wrong, samples=falls), replace(wrong, samples=rises)


def _case_picture(one: Drawn, wrong: FlowMap, rule: str) -> Picture:
    figure = Figure(figsize=PANEL, layout="constrained")
    axes = figure.subplots()
    told = []
    names = ("case 1, falls", "case 2, rises")
    for number, (name, part) in enumerate(zip(names, cases(wrong, rule), strict=True)):
        if part.samples:
            curve = replace(part.curve(rule, among="all"), knockout=f"{name} ({len(part.samples)})")
            curve.draw(axes, other_style(number), curve.knockout)
            told.append(lowest(curve))
    finish(axes, f"{rule} cut, wrong answers", "relative change (%)")
    below(figure, len(told))
    caption = f"{rule}: the wrong answer's probability, a curve where it falls and one where it rises."
    return Picture(slug(one.name, "cases", rule), caption, f"{caption} {'; '.join(told)}.", figure)


def repaired_in(wrong: FlowMap, rule: str) -> Curve:
    """The share of the wrong answers that are right under a knockout, by centre of the window, in per cent."""
    place = wrong.place(rule)
    values = np.stack([100 * sample.stays_right[place] for sample in wrong.samples])
    clips = [sample.clip or f"question {sample.task} {sample.doc_id}" for sample in wrong.samples]
    mean, low, high = mean_by_clip(values, clips)
    return Curve(rule, wrong.centres, mean, low, high, len(wrong.samples), len(set(clips)))


def _case_table(one: Drawn, wrong: FlowMap) -> Table:
    columns = (
        Column("edges cut", right=False, raw=("edges",)),
        Column("case 1: falls", raw=("case_1",)),
        Column("case 2: rises", raw=("case_2",)),
        Column("mean change", lambda value: signed(value), ("change",)),
        Column("repaired in any window", raw=("repaired_anywhere",)),
        Column("best at layer", raw=("best_layer",)),
        Column("repaired there (%)", lambda value: f"{value:.1f}", ("repaired_at_best",)),
    )
    rows = []
    for rule in one.map.knockouts:
        falls, rises = cases(wrong, rule)
        repaired, place = repaired_in(wrong, rule), wrong.place(rule)
        anywhere = sum(bool(sample.stays_right[place].any()) for sample in wrong.samples)
        best = int(repaired.mean.argmax())
        change = float(np.mean([sample.relative_change("answer")[place].mean() for sample in wrong.samples]))
        rows.append(
            (
                rule,
                len(falls.samples),
                len(rises.samples),
                change,
                anywhere,
                repaired.layers[best] if anywhere else None,
                float(repaired.mean[best]) if anywhere else None,
            )
        )
    note = "mean change: of the wrong answer's probability, over all windows and wrong answers"
    title = f"{one.title}: wrong answers under each knockout"
    return Table("cases", title, columns, tuple(rows), (note,), one.map.benchmark)
