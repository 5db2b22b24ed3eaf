"""Claims on trial: what papers predict of the arms that were run, and what the run says of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from ..board import Board
from ..table import Column, Table, change_with_interval, percent
from ..verdicts import NOT_RUN, NOTES, Trial, trials
from .parts import Block, Section, short_checkpoint

LEAD = (
    "What papers say about where the answer flows, as predictions about an arm's accuracy. A claim holds where the "
    "whole 95 % interval of the change lies where it says, and fails where the whole interval lies elsewhere; else "
    "there are not enough questions. The papers' models and data are others: a verdict is about this model here."
)
CLAIM = (
    Column("claim", raw=("claim",), right=False),
    Column("what it says", raw=("says",), right=False),
    Column("source", raw=("source",), right=False),
    Column("arm", raw=("arm",), right=False),
    Column("predicted (points)", raw=("predicted",), right=False),
    Column("verdict", raw=("verdict",), right=False),
    Column("found [95 %]", change_with_interval, ("change", "change_low", "change_high")),
    Column("shows from", percent, ("detectable",)),
    Column("n", raw=("n",)),
    Column("videos", raw=("videos",)),
)


def claims_section(boards: Sequence[Board], commands: Sequence[str]) -> Section | None:
    """The verdicts of every board; None where no arm of a claim was run."""
    blocks = [block for board in boards for block in _of_board(board)]
    return Section("claims", "Claims on trial", LEAD, tuple(blocks), tuple(commands)) if blocks else None


def _of_board(board: Board) -> Iterator[Block]:
    """A table a model, of the claims whose arms were run."""
    found = trials(board)
    for checkpoint in board.checkpoints:
        own = [one for one in found if one.checkpoint == checkpoint]
        tried = [one for one in own if one.change is not None]
        if tried:
            yield Block(text=_said(tried, len(own)), table=_table(board, checkpoint, tried))


def _said(tried: Sequence[Trial], known: int) -> str:
    counted = Counter(one.verdict for one in tried)
    said = ", ".join(f"{verdict}: {counted[verdict]}" for verdict in sorted(counted))
    rest = known - len(tried)
    missing = f"; {NOT_RUN}: {rest}, for want of answers under an arm of theirs" if rest else ""
    return f"Of {known} claims {said}{missing}."


def _table(board: Board, checkpoint: str, tried: Sequence[Trial]) -> Table:
    title = f"{board.benchmark}, {short_checkpoint(checkpoint)}: claims on trial"
    return Table("claims", title, CLAIM, tuple(map(_row, tried)), NOTES, board.benchmark)


def _row(trial: Trial) -> tuple[object, ...]:
    claim, change = trial.claim, trial.change
    assert change is not None
    return (
        claim.name,
        claim.says,
        f"{claim.paper} ({claim.source}), {claim.where}",
        str(claim.arm),
        claim.predicted,
        trial.verdict,
        (change.mean, *change.interval),
        change.detectable,
        len(change.values),
        change.num_clusters,
    )
