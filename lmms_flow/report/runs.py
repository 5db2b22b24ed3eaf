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
    """One question under one arm. `correct` is None where it was not answered (an error or a skipped sample)."""

    task: str
    doc_id: int
    doc_hash: str
    prompt_hash: str
    correct: bool | None
    status: str
    edges_kept: int
    edges_total: int
    seconds: float
    chance: float | None  # of guessing right; None where the options are not known


@dataclass
class Arm:
    """Everything one checkpoint answered under one flow."""

    checkpoint: str
    flow: str
    digest: str
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
    def share_kept(self) -> float:
        """Kept edges of all edges, over the answered samples."""
        answered = self.answered()
        total = sum(sample.edges_total for sample in answered)
        return sum(sample.edges_kept for sample in answered) / total if total else float("nan")

    @property
    def seconds(self) -> float:
        return sum(sample.seconds for sample in self.samples.values())


def read_arms(folders: Sequence[str | Path]) -> list[Arm]:
    """The arms in lmms-eval's output folders (`--log_samples --output_path DIR`), baselines first.

    Of two runs of the same checkpoint, flow and task the later one counts. Raises ReportError where there is nothing.
    """
    arms: dict[tuple[str, str], Arm] = {}
    files = [file for folder in folders for file in _sample_files(Path(folder))]
    for file in sorted(files, key=lambda path: (path.stat().st_mtime_ns, path.name)):
        for line in _lines(file):
            record = line.get("record")
            if not isinstance(record, dict) or not record.get("flow_digest"):
                break  # a task that is not of this package: its log holds no record
            key = (record["checkpoint"], record["flow_digest"])
            arm = arms.setdefault(key, Arm(record["checkpoint"], record["flow"], record["flow_digest"]))
            arm.samples[record["task"], line["doc_id"]] = _sample(line, record)
    if not arms:
        where = ", ".join(str(folder) for folder in folders)
        raise ReportError(
            f"no sample logs of this package's tasks in {where}: run lmms-eval with --log_samples --output_path DIR"
        )
    return sorted(arms.values(), key=lambda arm: (arm.checkpoint, not arm.is_baseline))


def _sample_files(folder: Path) -> Iterable[Path]:
    if not folder.is_dir():
        raise ReportError(f"{folder}: there is no such folder")
    return folder.rglob("*_samples_*.jsonl")


def _lines(file: Path) -> Iterable[Mapping[str, Any]]:
    with file.open(encoding="utf-8") as handle:
        for number, line in enumerate(handle, 1):
            try:
                yield json.loads(line)
            except ValueError:
                raise ReportError(f"{file}, line {number}: not JSON, the log is damaged") from None


def _sample(line: Mapping[str, Any], record: Mapping[str, Any]) -> ScoredSample:
    accuracy = line.get("accuracy")
    return ScoredSample(
        task=record["task"],
        doc_id=line["doc_id"],
        doc_hash=str(line.get("doc_hash", "")),
        prompt_hash=str(line.get("input", "")),
        correct=None if accuracy is None else bool(accuracy),
        status=record["status"],
        edges_kept=record.get("edges_kept") or 0,
        edges_total=record.get("edges_total") or 0,
        seconds=(record.get("milliseconds") or 0.0) / 1000,
        chance=1 / len(record["options"]) if record.get("options") else None,
    )
