"""Joins a stock task's log with the journal.

A stock task's log holds the score and the journal holds what was cut. They are joined by task, document and answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import ReportError, UserError
from ..flow.controls import NONE
from ..inputs.frame_order import FrameOrder
from ..records.journal import read_lines
from ..records.record import SampleRecord
from .logs import Run, first_answer, task_of

Journal = Mapping[tuple[str, int], Sequence[SampleRecord]]  # by task and document, the latest last
Key = tuple[str, str, str, str, str]  # checkpoint, digest, engine, protocol, order of frames

DEFAULT_FOLDER = "lmms_flow_records"


def arm_key(record: SampleRecord) -> Key:
    """Whose record it is, its number of frames aside. A flow that could not be bound has no digest but its text.

    A checkpoint whose vision tower ran as the paper's scripts ran it is a model of its own, and its name says so.
    """
    checkpoint = record.checkpoint + (f" ({record.vision} vision)" if record.vision else "")
    digest = record.flow_digest or f"text {record.flow}"
    return checkpoint, digest, record.engine, record.protocol, record.frame_order


def model_of(record: SampleRecord) -> str:
    """Whose read-outs a record is of: the checkpoint's name, with the order of its frames where it is another one.

    What a model makes of clips in another order never belongs into one mean with what it makes of them as filmed.
    """
    order = f" (frames {record.frame_order})" if record.frame_order else ""
    return arm_key(record)[0] + order


def frames_of(record: SampleRecord) -> int:
    """How many frames were asked for; 0 where that is not known, as for a video that could not be opened."""
    return record.num_frames or len(record.frames)


def by_document(folder: Path) -> Journal:
    """All records in a journal's folder. Damaged lines, and one that is still being written, are left out."""
    found: dict[tuple[str, int], list[SampleRecord]] = {}
    for line in sorted(filter(None, read_lines(folder)), key=lambda line: line.time):
        found.setdefault((line.record.task, line.record.doc_id), []).append(line.record)
    return found


def journal_folder(run: Run, named: Sequence[str | Path]) -> list[Path]:
    """Where a run's records may lie: what the user names, else what its arguments say, else the default's places."""
    if named:
        missing = next((folder for folder in named if not Path(folder).is_dir()), None)
        if missing is not None:
            raise ReportError(f"--records {missing}: there is no such folder")
        return [Path(folder) for folder in named]
    name = run.model_args.get("records", DEFAULT_FOLDER)
    if name.lower() == "none":
        return []
    places = [Path(name).expanduser()]
    if not places[0].is_absolute():
        places += [run.root / name, run.root.parent / name]
    return [place for place in places if place.is_dir()][:1]


def join(
    run: Run, log: Path, lines: Sequence[Mapping[str, Any]], journal: Journal, where: str
) -> list[SampleRecord | None]:
    """The record of each line of a stock task's log; None where there is none with the answer that was logged.

    Raises ReportError where there are none at all, or where they may be of several arms.
    """
    task = task_of(log)
    by_arm: dict[tuple[Key, int], dict[int, SampleRecord]] = {}
    unplaced: dict[Key, dict[int, SampleRecord]] = {}  # failed before their frames were counted
    for place, line in enumerate(lines):
        for record in journal.get((task, int(line["doc_id"])), ()):
            if record.answer.strip() != first_answer(line) or not _may_be(record, task, run):
                continue
            key, frames = arm_key(record), frames_of(record)
            (by_arm.setdefault((key, frames), {}) if frames else unplaced.setdefault(key, {}))[place] = record
    for key, failed in unplaced.items():
        for arm in [arm for arm in by_arm if arm[0] == key] or [(key, 0)]:
            by_arm[arm] = failed | by_arm.get(arm, {})
    if not by_arm:
        raise ReportError(
            f"{log}: none of its samples has a record in {where}; name the folder of its records with --records DIR"
        )
    most = max(map(len, by_arm.values()))
    best = [arm for arm, records in by_arm.items() if len(records) == most]
    if len(best) > 1:
        raise ReportError(
            f"{log}: its records in {where} may be of {len(best)} arms ({_told_apart(best)}); name the folder of "
            "this run's own records with --records DIR"
        )
    return [by_arm[best[0]].get(place) for place in range(len(lines))]


def _may_be(record: SampleRecord, task: str, run: Run) -> bool:
    """Whether a record can be this run's by its arguments. An arm that is a task of its own has a flow of its own."""
    args = run.model_args
    of_its_own = record.base not in ("", task)
    frames = frames_of(record)
    return (
        (of_its_own or record.flow == args.get("flow", NONE.name))
        and args.get("pretrained", record.checkpoint) == record.checkpoint
        and args.get("engine", record.engine) == record.engine
        and (of_its_own or not frames or args.get("num_frames", str(frames)) == str(frames))
        and (of_its_own or _spelled(args.get("frame_order", "")) == record.frame_order)
    )


def _spelled(order: str) -> str:
    """An order of frames as records write it."""
    try:
        return str(FrameOrder.parse(order)) if order else ""
    except UserError as error:
        raise ReportError(f"--model_args of the run: {error}") from None


def _told_apart(arms: Sequence[tuple[Key, int]]) -> str:
    names = ("checkpoint", "flow digest", "engine", "protocol", "order of frames", "frames")
    columns = zip(*((*key, frames) for key, frames in arms), strict=True)
    return "; ".join(
        f"{name} {', '.join(map(str, sorted(set(values))))}"
        for name, values in zip(names, columns, strict=True)
        if len(set(values)) > 1
    )
