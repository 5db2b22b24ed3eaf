"""Reads the samples of traces: their records, and where the arrays of each lie."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..errors import RecordError, ReportError
from ..records.arrays import Arrays, read_arrays
from ..records.journal import read_lines as read_journal_lines
from ..records.record import SampleRecord, logged_record, logs_records
from .joining import arm_key, frames_of, journal_folder
from .logs import find_runs, read_lines
from .same_video import Marks, videos_of

Folders = Sequence[str | Path]


@dataclass(frozen=True)
class Traced:
    """One traced sample: its record, and the folder of the records in which its arrays lie."""

    record: SampleRecord
    folder: Path
    video_of: str = ""  # the video that it is about (`same_video.py`)

    @property
    def cluster(self) -> str:
        """Equal for questions about one video, which are no independent samples; else the question's own."""
        return self.video_of or self.record.clip or f"question {self.record.base} {self.record.doc_id}"

    def arrays(self) -> Arrays:
        """What was read out. Raises ReportError with the file where it is gone or damaged."""
        try:
            return read_arrays(self.folder, self.record)
        except RecordError as error:
            raise ReportError(str(error)) from None

    @property
    def asked(self) -> tuple[object, ...]:
        """What tells it from every other sample; of two that are equal here the later one counts."""
        record = self.record
        return (*arm_key(record), frames_of(record), record.trace, record.base, record.doc_id)


def read_traces(folders: str | Path | Folders, records: Folders = ()) -> list[Traced]:
    """The traced samples that were answered, in lmms-eval's output folders or in folders of records.

    Args:
        folders: what `--output_path` named (with `--log_samples`), or what `records=` named.
        records: where the runs' records are, where their `--model_args` don't lead there.

    Raises:
        ReportError: a folder is not there, a log is damaged, or the records of a run can't be found.
    """
    named = [folders] if isinstance(folders, str | Path) else list(folders)
    found: dict[tuple[object, ...], Traced] = {}
    for folder in map(Path, named):
        try:
            for one in _in_folder(folder, records):
                found.pop(one.asked, None)  # the later one also stands later
                found[one.asked] = one
        except RecordError as error:
            raise ReportError(str(error)) from None
    return _with_videos(
        sorted(found.values(), key=lambda one: (one.record.base, one.record.trace, one.record.doc_id))
    )


def _with_videos(traced: Sequence[Traced]) -> list[Traced]:
    records = [one.record for one in traced]
    marks = [Marks(each.base or each.task, each.doc_id, each.clip, each.video_key) for each in records]
    return [replace(one, video_of=name) for one, name in zip(traced, videos_of(marks), strict=True)]


def _in_folder(folder: Path, records: Folders) -> Iterator[Traced]:
    runs = find_runs([folder])
    if not runs:
        lines = sorted(filter(None, read_journal_lines(folder)), key=lambda line: line.time)
        yield from (Traced(line.record, folder) for line in lines if _is_traced(line.record))
        return
    for run in runs:
        traced = []
        for log in run.logs:
            lines_of_log = list(read_lines(log))
            if not logs_records(lines_of_log):
                continue
            for number, line in enumerate(lines_of_log, 1):
                record = logged_record(line, f"{log}, line {number}")
                if record is not None and _is_traced(record):
                    traced.append(record)
        if traced:
            yield from _placed(traced, journal_folder(run, records), run.folder)


def _placed(traced: Sequence[SampleRecord], folders: Sequence[Path], run: Path) -> Iterator[Traced]:
    """Each sample with the folder in which its arrays are."""
    if not folders:
        raise ReportError(
            f"{run}: the arrays of its traces can't be found; name the folder of its records with --records FOLDER"
        )
    for record in traced:
        there = next((folder for folder in folders if (folder / record.arrays).is_file()), folders[0])
        yield Traced(record, there)


def _is_traced(record: SampleRecord) -> bool:
    return record.status == "ok" and bool(record.arrays)
