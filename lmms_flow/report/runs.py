"""Reads what lmms-eval wrote: the arms of one or many runs, with a record of every sample."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


class ReportError(ValueError):
    """Results that can't be compared; the message is one line."""


@dataclass(frozen=True)
class ScoredSample:
    """One question under one arm. `correct` is None where it was not answered (an error or a skipped sample).

    `status` is that of its record, or "unreadable" where the log holds none that can be read.
    """

    task: str
    doc_id: int
    doc_hash: str
    prompt_hash: str
    correct: bool | None
    status: str
    edges_kept: int = 0
    edges_total: int = 0
    seconds: float = 0.0
    chance: float | None = None  # of guessing right; None where the options are not known


@dataclass
class Arm:
    """Everything one checkpoint answered under one flow, from one number of frames and by one engine."""

    checkpoint: str
    flow: str
    digest: str
    engine: str
    frames: int
    samples: dict[tuple[str, int], ScoredSample] = field(default_factory=dict)

    @property
    def is_baseline(self) -> bool:
        return self.flow == "none"

    @property
    def tasks(self) -> list[str]:
        return sorted({task for task, _ in self.samples})

    def answered(self, task: str | None = None) -> list[ScoredSample]:
        """The samples that count, of one task or of all."""
        return [s for s in self.samples.values() if s.correct is not None and task in (None, s.task)]

    def chance(self, task: str | None = None) -> float:
        """The mean accuracy of guessing, of one task or of all; nan where the options are not known."""
        known = [sample.chance for sample in self.answered(task) if sample.chance is not None]
        return sum(known) / len(known) if known else float("nan")

    @property
    def errors(self) -> int:
        return sum(sample.status == "error" for sample in self.samples.values())

    @property
    def unreadable(self) -> int:
        """Samples in the log without a record that can be read; they are not scored."""
        return sum(sample.status == "unreadable" for sample in self.samples.values())

    @property
    def share_kept(self) -> float:
        """Kept edges of all edges, over the answered samples."""
        answered = self.answered()
        total = sum(sample.edges_total for sample in answered)
        return sum(sample.edges_kept for sample in answered) / total if total else float("nan")

    @property
    def seconds(self) -> float:
        return sum(sample.seconds for sample in self.samples.values())


def baseline_of(arm: Arm, arms: Sequence[Arm]) -> Arm | None:
    """What an arm is compared with: full attention of the same checkpoint, frames and engine where there is one.

    Otherwise, and for full attention itself, it is the one with the most frames: a single frame against the video.
    """
    baselines = [other for other in arms if other.is_baseline and other.checkpoint == arm.checkpoint]
    same = [other for other in baselines if (other.frames, other.engine) == (arm.frames, arm.engine)]
    if same and same[0] is not arm:
        return same[0]
    best = max(baselines, key=lambda other: (other.frames, other.engine == arm.engine), default=None)
    return None if best is arm else best


def arm_names(arms: Sequence[Arm]) -> list[str]:
    """The flow of each arm, with its number of frames and its engine where the arms differ in them."""
    frames = len({arm.frames for arm in arms}) > 1
    engines = len({arm.engine for arm in arms}) > 1
    names = []
    for arm in arms:
        count = f"{arm.frames} frame{'' if arm.frames == 1 else 's'}"
        names.append(", ".join([arm.flow, *([count] if frames else []), *([arm.engine] if engines else [])]))
    return names


def read_arms(folders: Sequence[str | Path]) -> list[Arm]:
    """The arms in lmms-eval's output folders (`--log_samples --output_path DIR`), baselines first.

    Of two runs of the same arm and task the later one counts. Raises ReportError where there is nothing to read, or
    with file and line where a log is damaged.
    """
    files = [file for folder in folders for file in _sample_files(Path(folder))]
    runs: dict[tuple[Path, str], list[Path]] = {}
    for file in sorted(files, key=lambda path: (path.stat().st_mtime_ns, path.name)):
        runs.setdefault((file.parent, file.name.partition(_MARK)[0]), []).append(file)
    arms: dict[tuple[str, str, str, int], Arm] = {}
    for logs in runs.values():
        _add_run(arms, logs)
    if not arms:
        where = ", ".join(str(folder) for folder in folders)
        raise ReportError(
            f"no sample logs of this package's tasks in {where}: run lmms-eval with --log_samples --output_path DIR"
        )
    return sorted(arms.values(), key=lambda arm: (arm.checkpoint, not arm.is_baseline, -arm.frames))


_MARK = "_samples_"  # lmms-eval names its logs TIME_samples_TASK.jsonl


@dataclass(frozen=True)
class _Row:
    """One line of a log, and what was run; `frames` is 0 where the sample failed."""

    sample: ScoredSample
    flow: str
    arm: tuple[str, str, str] | None  # checkpoint, digest, engine; None where the record can't be read
    frames: int


def _add_run(arms: dict[tuple[str, str, str, int], Arm], logs: Sequence[Path]) -> None:
    """The logs of one run. Its answered samples tell how many frames the failed ones would have had."""
    rows = [row for file in logs for row in _rows(file)]
    frames: dict[tuple[str, str, str], int] = {}
    for row in rows:
        if row.arm:
            frames[row.arm] = max(row.frames, frames.get(row.arm, 0))
    flows = {row.arm: row.flow for row in reversed(rows)}
    for row in rows:
        key = row.arm or next(iter(frames), None)
        if key is None:
            raise ReportError(f"{logs[0]}: none of this run's records can be read")
        checkpoint, digest, engine = key
        new = Arm(checkpoint, flows[key], digest, engine, frames[key])
        arm = arms.setdefault((*key, frames[key]), new)
        arm.samples[row.sample.task, row.sample.doc_id] = row.sample


def _sample_files(folder: Path) -> Iterable[Path]:
    if not folder.is_dir():
        raise ReportError(f"{folder}: there is no such folder")
    return folder.rglob(f"*{_MARK}*.jsonl")


def _rows(file: Path) -> list[_Row]:
    """The samples in a log; none where no line holds a record, as in the logs of other tasks."""
    lines = list(_lines(file))
    records = [line["record"] for line in lines if isinstance(line.get("record"), dict)]
    if not any("status" in record for record in records):
        return []
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            rows.append(_row(line, file.stem.partition(_MARK)[2]))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ReportError(
                f"{file}, line {number}: no sample of this package's tasks ({type(error).__name__}: {error})"
            ) from None
    return rows


def _lines(file: Path) -> Iterable[Mapping[str, Any]]:
    with file.open("rb") as handle:
        for number, line in enumerate(handle, 1):
            try:
                values = json.loads(line.decode())
            except (ValueError, RecursionError):  # not UTF-8 is a ValueError as well
                raise ReportError(f"{file}, line {number}: not JSON, the log is damaged") from None
            if not isinstance(values, dict):
                raise ReportError(f"{file}, line {number}: not a JSON object, this is no log of lmms-eval's")
            yield values


def _row(line: Mapping[str, Any], task: str) -> _Row:
    record = line.get("record")
    if not isinstance(record, dict) or not record.get("flow_digest"):
        return _Row(ScoredSample(task, int(line["doc_id"]), "", "", None, "unreadable"), "", None, 0)
    accuracy = line.get("accuracy")
    options = record.get("options")
    sample = ScoredSample(
        task=str(record["task"]),
        doc_id=int(line["doc_id"]),
        doc_hash=str(line.get("doc_hash", "")),
        prompt_hash=str(line.get("input", "")),
        correct=None if accuracy is None else bool(float(accuracy)),
        status=str(record["status"]),
        edges_kept=int(record.get("edges_kept") or 0),
        edges_total=int(record.get("edges_total") or 0),
        seconds=float(record.get("milliseconds") or 0.0) / 1000,
        chance=1 / len(options) if options else None,
    )
    arm = (str(record["checkpoint"]), str(record["flow_digest"]), str(record.get("engine") or ""))
    return _Row(sample, str(record["flow"]), arm, len(record.get("frames") or ()))
