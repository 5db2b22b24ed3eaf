"""Claims held against a run: what was predicted, what was found, and whether that is enough to say so."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias

from ..claims.book import Claim, ClaimArm, claims
from .arms import Arm
from .board import Board
from .clusters import Clustered
from .pairing import both_answered
from .table import Column, Table, change_with_interval, percent

Verdict: TypeAlias = Literal["holds", "fails", "not enough questions", "not run"]
NOT_RUN: Verdict = "not run"
NOTES = (
    "found: accuracy of the arm less that of full attention, or of the arm that the prediction names; errors are "
    "cluster-robust by video",
    "shows from: the smallest change, in points, that this run would have found with a chance of 80 %",
    "a verdict is about this model on these questions; the papers' models and data are others",
)


@dataclass(frozen=True)
class Trial:
    """A claim on one benchmark.

    Args:
        claim: what was predicted.
        checkpoint: of the arms.
        verdict: what the run says of it.
        change: accuracy of the claim's arm less that of full attention (or of the other arm), on the questions that
            both answered; None where an arm was not run.
        reason: why there is no verdict.
    """

    claim: Claim
    checkpoint: str
    verdict: Verdict
    change: Clustered | None = None
    reason: str = ""


def trials(board: Board) -> list[Trial]:
    """Every claim on every checkpoint of a board."""
    return [
        _trial(
            claim, checkpoint, [entry.arm for entry in board.entries if entry.arm.checkpoint == checkpoint]
        )
        for checkpoint in board.checkpoints
        for claim in claims()
    ]


def _trial(claim: Claim, checkpoint: str, arms: list[Arm]) -> Trial:
    baseline = _of(ClaimArm(), arms, None)
    frames = baseline.frames if baseline else None
    arm, other = _of(claim.arm, arms, frames), baseline
    if claim.beyond is not None:
        other = _of(claim.beyond, arms, frames)
    for found, named in ((arm, claim.arm), (other, claim.beyond or ClaimArm())):
        if found is None or not found.answered():
            why = found.skipped_because if found else ""
            return Trial(
                claim, checkpoint, NOT_RUN, reason=f"no answers under {named}" + (f": {why}" if why else "")
            )
    assert arm is not None
    assert other is not None
    change = difference(arm, other)
    return Trial(claim, checkpoint, verdict(claim, change), change)


def _of(wanted: ClaimArm, arms: Iterable[Arm], frames: int | None) -> Arm | None:
    """The arm of a flow and an order of frames, from as many frames as full attention; that from the most frames."""
    found = [
        arm
        for arm in arms
        if (arm.flow, arm.frame_order) == (wanted.flow, wanted.frame_order) and frames in (None, arm.frames)
    ]
    return max(found, key=lambda arm: (len(arm.answered()), arm.frames), default=None)


def difference(arm: Arm, other: Arm) -> Clustered:
    """Right under one arm less right under the other, on the questions that both answered, by video."""
    both = both_answered(arm, other)
    values = [float(bool(sample.correct)) - float(bool(beside.correct)) for sample, beside in both]
    return Clustered.of(values, [sample.cluster for sample, _ in both])


def verdict(claim: Claim, change: Clustered) -> Verdict:
    """By the 95 % interval of the change: it lies where the claim says, or elsewhere, or across the border."""
    low, high = change.interval
    if math.isnan(low):
        return "not enough questions"
    if claim.is_drop:
        return "holds" if high <= -claim.size else "fails" if low > -claim.size else "not enough questions"
    if -claim.size < low and high < claim.size:
        return "holds"
    return "fails" if high <= -claim.size or low >= claim.size else "not enough questions"


def verdict_table(board: Board) -> Table:
    """A row a claim, those of one paper together."""
    columns = (
        *((Column("model", right=False),) if len(board.checkpoints) > 1 else ()),
        Column("claim", raw=("claim",), right=False),
        Column("paper", raw=("paper",), right=False, rank=4),
        Column("arm", raw=("arm",), right=False, rank=2),
        Column("predicted (points)", raw=("predicted",), right=False, rank=1),
        Column("found [95 %]", change_with_interval, ("change", "change_low", "change_high")),
        Column("verdict", raw=("verdict",), right=False),
        Column("shows from", percent, ("detectable",), rank=3),
        Column("n", raw=("n",), rank=5),
        Column("videos", raw=("videos",), rank=6),
    )
    rows = tuple(tuple(_cells(trial, len(board.checkpoints) > 1)) for trial in trials(board))
    return Table("claims", f"{board.benchmark}: claims on trial", columns, rows, NOTES, board.benchmark)


def _cells(trial: Trial, with_model: bool) -> Iterator[object]:
    claim, change = trial.claim, trial.change
    if with_model:
        yield trial.checkpoint
    yield claim.name
    yield claim.paper.partition(":")[0]
    yield str(claim.arm)
    yield claim.predicted
    if change is None:
        yield from (None, f"{trial.verdict} ({trial.reason})", None, None, None)
        return
    yield (change.mean, *change.interval)
    yield from (trial.verdict, change.detectable, len(change.values), change.num_clusters)
