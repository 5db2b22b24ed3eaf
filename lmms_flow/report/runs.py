"""Reads what lmms-eval wrote: the arms of one or many runs, with the score and the record of every sample."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ..errors import RecordError, ReportError, one_line
from ..records.record import SampleRecord, logged_record, logs_records
from .arms import Arm, order_of
from .joining import Journal, Key, by_document, join, journal_folder
from .logs import Run, find_runs, read_lines, task_of
from .rows import Row, own_rows, stock_rows
from .same_video import with_videos
from .scores import find_metric

__all__ = ["Reading", "ReportError", "read_arms", "read_runs"]

Folders = Sequence[str | Path]
Lines = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Reading:
    """The arms of all runs, baselines first, what was passed over, and the runs themselves."""

    arms: list[Arm]
    notes: list[str] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)


def read_arms(folders: Folders, records: Folders = ()) -> list[Arm]:
    """The arms in lmms-eval's output folders, baselines first; see :func:`read_runs`."""
    return read_runs(folders, records).arms


def read_runs(folders: Folders, records: Folders = (), *, unscored: bool = False) -> Reading:
    """Reads lmms-eval's output folders (`--log_samples --output_path DIR`).

    Of two runs of the same arm and task the later one counts; a trace, whose answer is full attention's, counts where
    no arm of its own was run.

    Args:
        folders: lmms-eval's.
        records: the folders in which the records of stock tasks are looked up; where it is empty, those of the runs'
            own arguments are.
        unscored: whether no log need be scored: free answers are neither right nor wrong.

    Raises:
        ReportError: there is nothing to read, records can't be told apart, or, with file and line, a log is damaged.
    """
    arms: dict[tuple[Key, int], Arm] = {}
    notes: list[str] = []
    traced: list[tuple[Run, list[Row]]] = []
    runs = find_runs(folders)
    journal = lru_cache(maxsize=None)(by_document)  # runs share folders
    for run in tqdm(runs, desc="reading", unit="run", delay=2, leave=False):
        rows: list[Row] = []
        for log in run.logs:
            try:
                found = _rows(run, log, records, journal)
            except RecordError as error:
                raise ReportError(str(error)) from None
            if found is None:
                notes.append(f"{log.name} is passed over: no metric of it says right or wrong")
            else:
                rows += found
        _add_run(arms, run, [row for row in rows if not row.is_trace])
        traced.insert(0, (run, [row for row in rows if row.is_trace]))
        notes += _limited(run)
    for run, rows in traced:  # the latest first
        _add_run(arms, run, rows, only_new=True)
    if not arms and not (unscored and runs):
        where = ", ".join(str(folder) for folder in folders)
        raise ReportError(
            f"no sample logs that can be compared in {where}: run lmms-eval with --log_samples --output_path DIR"
        )
    return Reading(with_videos(sorted(arms.values(), key=order_of)), list(dict.fromkeys(notes)), runs)


def _limited(run: Run) -> list[str]:
    """Says it where a run was not asked everything."""
    limit, offset = run.config.get("limit"), run.config.get("offset")
    if limit in (None, -1) and not offset:
        return []
    asked = "every question" if limit in (None, -1) else f"at most {_number(limit)} questions"
    start = f" from number {offset} on" if offset else ""
    return [f"a part only: the run of {run.time} was limited to {asked} of each task{start} (--limit)"]


def _number(limit: Any) -> str:
    """8 for 8.0, as lmms-eval writes it."""
    return f"{limit:g}" if isinstance(limit, float) else one_line(limit, limit=40)


def _rows(run: Run, log: Path, records: Folders, journal: Callable[[Path], Journal]) -> Iterator[Row] | None:
    """The samples of a log, with their records from the log itself or from the journal; None where none is scored."""
    lines = list(read_lines(log))
    metric = _metric(run, log, lines)
    if logs_records(lines):
        own = [logged_record(line, f"{log}, line {number}") for number, line in enumerate(lines, 1)]
        if metric or not any(record and record.status == "ok" for record in own):
            return own_rows(log, lines, own, metric)
    if metric is None:
        return None
    return stock_rows(run, log, lines, metric, _look_up(run, log, lines, records, journal))


def _metric(run: Run, log: Path, lines: Lines) -> str | None:
    """The metric by which the samples of a task are right or wrong; our own tasks have "accuracy"."""
    if any("accuracy" in line and "record" in line for line in lines):
        return "accuracy"
    if not all(isinstance(line.get("doc_id"), int) for line in lines):
        return None
    return find_metric(lines, run.metrics(task_of(log)))


def _look_up(
    run: Run, log: Path, lines: Lines, records: Folders, journal: Callable[[Path], Journal]
) -> Sequence[SampleRecord | None] | None:
    """The records of a log without them; None where the model is none of ours and has none."""
    if not run.is_ours:
        return None
    folders = journal_folder(run, records)
    merged: dict[tuple[str, int], list[SampleRecord]] = {}
    for folder in folders:
        for document, found in journal(folder).items():
            merged.setdefault(document, []).extend(found)
    return join(run, log, lines, merged, ", ".join(map(str, folders)) or "no folder that could be found")


def _add_run(
    arms: dict[tuple[Key, int], Arm], run: Run, rows: Sequence[Row], *, only_new: bool = False
) -> None:
    """Adds one run. Where a failed sample's frames were not counted, they are those of the answered ones."""
    frames: dict[Key, int] = {}
    for row in rows:
        if row.key:
            frames[row.key] = max(row.frames, frames.get(row.key, 0))
    for row in rows:
        key = row.key or next(iter(frames), None)
        if key is None:
            raise ReportError(f"{run.logs[0]}: none of this run's records can be read")
        number = row.frames or frames[key]
        if (key, number) not in arms:
            arms[key, number] = _new_arm(key, number, rows)
        samples, place = arms[key, number].samples, (row.sample.task, row.sample.doc_id)
        if not (only_new and place in samples):
            samples[place] = row.sample


def _new_arm(key: Key, frames: int, rows: Sequence[Row]) -> Arm:
    checkpoint, digest, engine, protocol, frame_order = key
    said = next(row for row in rows if row.key == key and row.flow)
    return Arm(
        checkpoint,
        said.flow,
        digest,
        engine,
        frames,
        protocol,
        frame_order,
        said.flow_name,
        said.num_layers,
        said.runtime,
    )
