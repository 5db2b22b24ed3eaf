"""The lines of a log as scored samples, each with the arm that it is of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ReportError
from ..flow.controls import NONE
from ..records.record import SampleRecord
from .arms import ScoredSample
from .joining import Key, arm_key, frames_of
from .logs import Run, first_answer, task_of
from .scores import category, is_right


@dataclass(frozen=True)
class Row:
    """One line of a log, and what was run."""

    sample: ScoredSample
    key: Key | None  # None where no record of the log can be read
    frames: int = 0  # 0 where they are not known
    flow: str = ""
    flow_name: str = ""
    num_layers: int | None = None
    runtime: str = ""
    is_trace: bool = False  # asked to read something out of it, and not as an arm


def own_rows(
    log: Path,
    lines: Sequence[Mapping[str, Any]],
    records: Sequence[SampleRecord | None],
    metric: str | None,
) -> Iterator[Row]:
    """The samples of a task whose log holds the records: one of ours, or an arm of any task.

    Raises ReportError with file and line for a line that is no sample.
    """
    known = next(filter(None, records), None)
    for number, (line, record) in enumerate(zip(lines, records, strict=True), 1):
        try:
            if record is not None:
                value = line.get(metric) if metric else None
                yield _row(line, record, _right(str(metric), value), category(value))
            else:
                yield _unreadable(log, line, known, "no record that can be read")
        except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError) as error:
            raise ReportError(
                f"{log}, line {number}: no sample of this package's tasks ({type(error).__name__}: {error})"
            ) from None


def stock_rows(
    run: Run,
    log: Path,
    lines: Sequence[Mapping[str, Any]],
    metric: str,
    found: Sequence[SampleRecord | None] | None,
) -> Iterator[Row]:
    """The samples of a task of the host's, with what was found of them in the journal."""
    known = next(filter(None, found or ()), None)
    for place, line in enumerate(lines):
        right = is_right(metric, line.get(metric))
        kind = category(line.get(metric))
        if found is None:
            yield _row(line, _made_up(run, log, line), right, kind)
        elif record := found[place]:
            yield _row(line, record, right if record.status == "ok" else None, kind)
        else:
            yield _unreadable(log, line, known, "no record with the answer that was logged")


def _unreadable(log: Path, line: Mapping[str, Any], known: SampleRecord | None, reason: str) -> Row:
    """A sample of which only its number is known; it is of the arm of the log's other samples."""
    task = _task(known) if known else task_of(log)
    lost = ScoredSample(task, int(line["doc_id"]), None, "unreadable", reason=reason)
    if known is None:
        return Row(lost, None)
    return Row(lost, arm_key(known), frames_of(known), is_trace=bool(known.trace))


def _right(metric: str, value: Any) -> bool | None:
    """Whether an answer is right; None where there is no score, as for one that failed."""
    if value is None:
        return None
    right = is_right(metric, value)
    if right is None:
        raise ValueError(f"{metric} is {value!r}, neither right nor wrong")
    return right


def _made_up(run: Run, log: Path, line: Mapping[str, Any]) -> SampleRecord:
    """What a record would say of a model that is none of ours: full attention, and nothing else is known."""
    args, doc_id = run.model_args, int(line["doc_id"])
    return SampleRecord(
        id=str(doc_id),
        task=task_of(log),
        doc_id=doc_id,
        status="ok",
        answer=first_answer(line),
        flow=NONE.name,
        checkpoint=args.get("pretrained") or args.get("model") or run.model or "unnamed model",
        engine=run.model,
    )


def _text(value: object) -> str:
    """A value as text that can be written: answers may hold half a surrogate pair."""
    return "" if value is None else str(value).encode("utf-8", "replace").decode()


def _task(record: SampleRecord) -> str:
    return record.base or record.task


def _row(line: Mapping[str, Any], record: SampleRecord, correct: bool | None, kind: str = "") -> Row:
    shared = record.shared_milliseconds
    status, reason = str(record.status), _text(record.reason)
    if status == "ok" and correct is None:
        status, reason = "unreadable", "no score"
    sample = ScoredSample(
        task=_task(record),
        doc_id=int(line["doc_id"]),
        correct=correct,
        status=status,
        category=record.category or kind,
        reason=reason,
        answer=_text(record.answer),
        target=_text(line.get("target")),
        question=_text(line.get("input")),
        prompt_digest=record.prompt_digest,
        data_digest=record.data_digest,
        frames=record.frames,
        edges_kept=record.edges_kept or 0,
        edges_total=record.edges_total or 0,
        flops=record.flops,
        flops_full=record.flops_full,
        seconds=(record.milliseconds or 0.0) / 1000,
        shared_seconds=None if shared is None else shared / 1000,
        chance=1 / len(record.options) if record.options else None,
        id=_text(record.id),
        options=record.options,
        video=record.video,
        clip=record.clip,
        pair=record.pair,
        video_key=_text(record.video_key),
    )
    return Row(
        sample,
        arm_key(record),
        frames_of(record),
        record.flow,
        record.flow_name,
        record.num_layers,
        record.runtime,
        bool(record.trace),
    )
