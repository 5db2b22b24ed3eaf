"""All answers as one tidy table for notebooks: a row a question and arm.

from lmms_flow.report import samples_df
samples = samples_df("out")
samples.groupby("arm").correct.mean()
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .arms import ScoredSample
from .board import Board, Entry, Settings, make_boards
from .runs import read_runs

if TYPE_CHECKING:
    import pandas as pd

Folders = Sequence[str | Path]


def samples_df(
    folders: str | Path | Folders, records: Folders = (), *, allow_differences: bool = False
) -> pd.DataFrame:
    """The answers in lmms-eval's output folders: a row a question and arm.

    Args:
        folders: what `--output_path` named, of one run or of many.
        records: where the records of stock tasks are, where the runs' `--model_args` don't lead there.
        allow_differences: read them although arms were not asked the same.

    Returns:
        The columns of docs/report.md, `correct` a nullable boolean: a sample that failed is neither right nor wrong.
        `p_A`, `p_B`, ... are the probabilities of the options' letters.

    Raises:
        ReportError: as `lmms-flow compare` does.
    """
    named = [folders] if isinstance(folders, str | Path) else list(folders)
    reading = read_runs(named, records)
    return frame_of(make_boards(reading.arms, Settings(), allow_differences=allow_differences))


def frame_of(boards: Sequence[Board]) -> pd.DataFrame:
    """The same of boards that were made already."""
    import pandas as pd

    rows = [row for board in boards for entry in board.entries for row in _rows(board, entry)]
    frame = pd.DataFrame(rows)
    options = sorted(name for name in frame.columns if name.startswith("p_"))
    ordered = frame[[name for name in frame.columns if name not in options] + options]
    kinds = {"correct": "boolean", "baseline_correct": "boolean", "flops": "Int64", "flops_full": "Int64"}
    return ordered.astype(kinds)


def _rows(board: Board, entry: Entry) -> Iterator[dict[str, Any]]:
    arm = entry.arm
    flips = {(flip.after.task, flip.after.doc_id): flip.kind for flip in entry.flips}
    for place, sample in sorted(arm.samples.items()):
        before = None if entry.baseline is None else entry.baseline.arm.samples.get(place)
        yield {
            "benchmark": board.benchmark,
            "task": sample.task,
            "subtask": board.short[sample.subtask],
            "doc_id": sample.doc_id,
            "id": sample.id,
            "video": sample.cluster,
            "checkpoint": arm.checkpoint,
            "arm": entry.name,
            "flow": arm.flow,
            "flow_digest": arm.digest,
            "engine": arm.engine,
            "frames": arm.frames,
            "frame_order": arm.frame_order,
            "protocol": arm.protocol,
            **_answer(sample),
            "baseline_answer": None if before is None else before.answer,
            "baseline_correct": None if before is None else before.correct,
            "flip": flips.get(place, ""),
            **_cost(sample),
            **{f"p_{letter}": value for letter, value in sample.options.items()},
        }


def _answer(sample: ScoredSample) -> dict[str, Any]:
    return {
        "status": sample.status,
        "reason": sample.reason,
        "answer": sample.answer,
        "target": sample.target,
        "correct": sample.correct,
    }


def _cost(sample: ScoredSample) -> dict[str, Any]:
    return {
        "edges_kept": sample.edges_kept,
        "edges_total": sample.edges_total,
        "flops": sample.flops,
        "flops_full": sample.flops_full,
        "seconds": sample.seconds,
        "shared_seconds": sample.shared_seconds,
    }
