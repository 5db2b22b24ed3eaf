"""Reads what lmms-eval wrote: the arms of one or many runs, with the score and the record of every sample."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from tqdm import tqdm

from .arms import Arm, ReportError, ScoredSample
from .logs import Run, find_runs, first_answer, read_lines, task_of
from .records import Journal, Key, Record, arm_key, frames_of, is_arm, join, journal_folder, read_journal
from .scores import category, find_metric, is_right

__all__ = ["Reading", "ReportError", "read_arms", "read_runs"]


@dataclass(frozen=True)
class Reading:
    """The arms of all runs, baselines first, and what was passed over."""

    arms: list[Arm]
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Row:
    """One line of a log, and what was run."""

    sample: ScoredSample
    key: Key | None  # None where the record can't be read
    frames: int = 0  # 0 where they are not known
    flow: str = ""
    flow_name: str = ""


def read_arms(folders: Sequence[str | Path], records: Sequence[str | Path] = ()) -> list[Arm]:
    """The arms in lmms-eval's output folders, baselines first; see :func:`read_runs`."""
    return read_runs(folders, records).arms


def read_runs(folders: Sequence[str | Path], records: Sequence[str | Path] = ()) -> Reading:
    """Reads lmms-eval's output folders (`--log_samples --output_path DIR`).

    Of two runs of the same arm and task the later one counts. `records` are the folders in which the records of stock
    tasks are looked up; where it is empty, those of the runs' own arguments are. Raises ReportError where there is
    nothing to read, where records can't be told apart, or with file and line where a log is damaged.
    """
    arms: dict[tuple[Key, int], Arm] = {}
    notes: list[str] = []
    journal = lru_cache(maxsize=None)(read_journal)  # runs share folders
    runs = find_runs(folders)
    for run in tqdm(runs, desc="reading", unit="run", delay=2, leave=False):
        rows: list[_Row] = []
        for log in run.logs:
            lines = list(read_lines(log))
            has_records = any(isinstance(x.get("record"), dict) and "status" in x["record"] for x in lines)
            metric = _metric(run, log, lines)
            if has_records and (metric or not _answered(lines)):
                rows += _own_rows(log, lines, metric)
            elif metric:
                found = _look_up(run, log, lines, records, journal)
                rows += _stock_rows(run, log, lines, metric, found)
            else:
                notes.append(f"{log.name} is passed over: no metric of it says right or wrong")
        _add_run(arms, run, rows)
    if not arms:
        where = ", ".join(str(folder) for folder in folders)
        raise ReportError(
            f"no sample logs that can be compared in {where}: run lmms-eval with --log_samples --output_path DIR"
        )
    return Reading(sorted(arms.values(), key=_order), notes)


def _order(arm: Arm) -> tuple[object, ...]:
    """Full attention first, then the sham, then the others as they were run."""
    return arm.checkpoint, not arm.is_baseline, not arm.is_sham, -arm.frames


def _metric(run: Run, log: Path, lines: Sequence[Mapping[str, Any]]) -> str | None:
    """The metric by which the samples of a task are right or wrong; our own tasks have "accuracy"."""
    if any("accuracy" in line and "record" in line for line in lines):
        return "accuracy"
    if not all(isinstance(line.get("doc_id"), int) for line in lines):
        return None
    return find_metric(lines, run.metrics(task_of(log)))


def _answered(lines: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a log with records has answers to score; one of an arm that was skipped has none."""
    return any(is_arm(line.get("record")) and line["record"].get("status") == "ok" for line in lines)


def _add_run(arms: dict[tuple[Key, int], Arm], run: Run, rows: Sequence[_Row]) -> None:
    """Adds one run. In old logs, its answered samples tell how many frames the failed ones would have had."""
    frames: dict[Key, int] = {}
    for row in rows:
        if row.key:
            frames[row.key] = max(row.frames, frames.get(row.key, 0))
    homes = {row.sample.task: row.key for row in reversed(rows) if row.key}
    for row in rows:
        key = row.key or homes.get(row.sample.task) or next(iter(frames), None)
        if key is None:
            raise ReportError(f"{run.logs[0]}: none of this run's records can be read")
        number = row.frames or frames[key]
        if (key, number) not in arms:
            arms[key, number] = _new_arm(key, number, rows)
        arms[key, number].samples[row.sample.task, row.sample.doc_id] = row.sample


def _new_arm(key: Key, frames: int, rows: Sequence[_Row]) -> Arm:
    checkpoint, digest, engine, protocol = key
    said = next(row for row in rows if row.key == key)
    return Arm(checkpoint, said.flow, digest, engine, frames, protocol, said.flow_name)


def _look_up(
    run: Run, log: Path, lines: Sequence[Mapping[str, Any]], records: Sequence[str | Path], journal: Any
) -> Sequence[Record | None] | None:
    """The records of a log without them; None where the model is none of ours and has none."""
    if not run.is_ours:
        return None
    folders = journal_folder(run, records)
    merged: dict[tuple[str, int], list[Record]] = {}
    for folder in folders:
        found: Journal = journal(folder)
        for document, of_it in found.items():
            merged.setdefault(document, []).extend(of_it)
    return join(run, log, lines, merged, ", ".join(map(str, folders)) or "no folder that could be found")


def _own_rows(log: Path, lines: Sequence[Mapping[str, Any]], metric: str | None) -> Iterator[_Row]:
    """The samples of a task whose log holds the records: one of ours, or an arm of any task."""
    known = next((line["record"] for line in lines if is_arm(line.get("record"))), None)
    for number, line in enumerate(lines, 1):
        try:
            home = _task(known) if known else task_of(log)
            record = line.get("record")
            if isinstance(record, dict) and is_arm(record):
                value = line.get(metric) if metric else None
                yield _row(line, record, _right(str(metric), value), category(value))
            else:
                lost = ScoredSample(
                    home, int(line["doc_id"]), None, "unreadable", reason="no readable record"
                )
                yield _Row(lost, None)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ReportError(
                f"{log}, line {number}: no sample of this package's tasks ({type(error).__name__}: {error})"
            ) from None


def _right(metric: str, value: Any) -> bool | None:
    """Whether an answer is right; None where there is no score, as for one that failed."""
    if value is None:
        return None
    right = is_right(metric, value)
    if right is None:
        raise ValueError(f"{metric} is {value!r}, neither right nor wrong")
    return right


def _stock_rows(
    run: Run,
    log: Path,
    lines: Sequence[Mapping[str, Any]],
    metric: str,
    found: Sequence[Record | None] | None,
) -> Iterator[_Row]:
    """The samples of a task of the host's, with what was found of them in the journal."""
    for place, line in enumerate(lines):
        right = is_right(metric, line.get(metric))
        kind = category(line.get(metric))
        if found is None:
            yield _row(line, _made_up(run, log, line, right), right, kind)
        elif record := found[place]:
            yield _row(line, record, right if record["status"] == "ok" else None, kind)
        else:
            reason = "no record with the answer that was logged"
            yield _Row(
                ScoredSample(task_of(log), int(line["doc_id"]), None, "unreadable", reason=reason), None
            )


def _made_up(run: Run, log: Path, line: Mapping[str, Any], right: bool | None) -> Record:
    """What a record would say of a model that is none of ours: full attention, and nothing else is known."""
    args = run.model_args
    return {
        "task": task_of(log),
        "status": "error" if right is None else "ok",
        "reason": "" if right is not None else "no score",
        "flow": "none",
        "checkpoint": args.get("pretrained") or args.get("model") or run.model or "unnamed model",
        "engine": run.model,
        "frames": (),
    }


def _text(value: object) -> str:
    """A value as text that can be written: answers may hold half a surrogate pair."""
    return "" if value is None else str(value).encode("utf-8", "replace").decode()


def _task(record: Record) -> str:
    return str(record.get("base") or record["task"])


def _row(line: Mapping[str, Any], record: Record, correct: bool | None, kind: str = "") -> _Row:
    options = record.get("options")
    shared = record.get("shared_milliseconds")
    answer = record.get("answer")
    sample = ScoredSample(
        task=_task(record),
        doc_id=int(line["doc_id"]),
        correct=correct,
        status=str(record["status"]),
        category=str(record.get("category") or kind),
        reason=_text(record.get("reason")),
        answer=first_answer(line) if answer is None else _text(answer),
        target=_text(line.get("target")),
        question=_text(line.get("input")),
        prompt_digest=str(record.get("prompt_digest") or ""),
        data_digest=str(record.get("data_digest") or ""),
        frames=tuple(record.get("frames") or ()),
        edges_kept=int(record.get("edges_kept") or 0),
        edges_total=int(record.get("edges_total") or 0),
        flops=record.get("flops"),
        flops_full=record.get("flops_full"),
        seconds=float(record.get("milliseconds") or 0.0) / 1000,
        shared_seconds=None if shared is None else float(shared) / 1000,
        chance=1 / len(options) if options else None,
    )
    return _Row(
        sample, arm_key(record), frames_of(record), str(record["flow"]), str(record.get("flow_name") or "")
    )
