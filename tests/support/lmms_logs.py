"""Made-up output of lmms-eval: sample logs with and without records, results files, and a journal beside them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lmms_flow.records.record import FORMAT, SampleRecord

TIME = "20260101_000000"


def record(doc_id: int, right: bool | None, flow: str, **fields: Any) -> dict[str, Any]:
    """A record as our models write it; None stands for a sample that failed."""
    status = "error" if right is None else "ok"
    frames = int(fields.get("num_frames", 8))
    values: dict[str, Any] = {
        "id": str(doc_id),
        "task": "t",
        "doc_id": doc_id,
        "status": status,
        "reason": "the video is cut short" if right is None else "",
        "answer": "" if right is None else "A" if right else "B",
        "flow": flow,
        "flow_name": flow,
        "flow_digest": f"digest-{flow}",
        "engine": "dense",
        "frames": () if right is None else tuple(range(frames)),
        "num_frames": frames,
        "checkpoint": "tiny",
        "edges_kept": 100 if flow in ("none", "sham") else 25,
        "edges_total": 100,
        "options": {"A": 0.5, "B": 0.25},
        "milliseconds": 500.0,
        "protocol": "paper",
        "prompt_digest": f"prompt {doc_id}",
        "data_digest": f"data {doc_id}",
    }
    return SampleRecord(**values | fields).to_dict()


def write_log(
    folder: Path,
    flow: str,
    correct: Iterable[bool | None],
    task: str = "t",
    *,
    time: str = TIME,
    line: Mapping[str, Any] | None = None,
    **fields: Any,
) -> Path:
    """The log of a task of ours. `line` replaces fields of the lines, `fields` of the records."""
    rows = []
    for doc_id, right in enumerate(correct):
        made = record(doc_id, right, flow, **{"task": task, **fields})
        row = {"doc_id": doc_id, "target": "A", "input": f"question {doc_id}", "record": made, **(line or {})}
        rows.append(row if right is None else {"accuracy": float(right), **row})
    return write_lines(folder / f"{time}_samples_{task}.jsonl", rows)


def write_stock_log(
    folder: Path,
    correct: Sequence[bool],
    task: str = "tvbench_object_count",
    *,
    metric: str = "tvbench_acc",
    time: str = TIME,
    values: Sequence[Any] | None = None,
    answers: Sequence[str] | None = None,
) -> Path:
    """The log of a task of the host's, which has no records."""
    rows = [
        {
            "doc_id": doc_id,
            "target": "A",
            "filtered_resps": answers[doc_id] if answers else "A" if right else "B",
            metric: values[doc_id] if values else float(right),
            "input": f"question {doc_id}",
        }
        for doc_id, right in enumerate(correct)
    ]
    return write_lines(folder / f"{time}_samples_{task}.jsonl", rows)


def write_results(
    folder: Path,
    model_args: str,
    tasks: Mapping[str, Sequence[str]],
    *,
    time: str = TIME,
    model: str = "llava_vid_flow",
    backend: str = "lmms_flow.model_wrappers.llava_vid.LlavaVidFlow (chat)",
) -> Path:
    """The results file of a run; `tasks` are their names and metrics."""
    configs = {task: {"metric_list": [{"metric": name} for name in names]} for task, names in tasks.items()}
    config = {"model": model, "model_args": model_args, "model_backend": backend}
    file = folder / f"{time}_results.json"
    folder.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"configs": configs, "config": config}))
    return file


def write_journal(folder: Path, records: Iterable[Mapping[str, Any]]) -> Path:
    """Appends to the journal of one task, as `lmms_flow.records.journal` does."""
    listed = list(records)
    file = folder / f"{listed[0]['task']}.rank0.jsonl"
    start = len(file.read_text().splitlines()) if file.exists() else 0
    return write_lines(
        file,
        [{"format": FORMAT, "key": "k", "time": start + n, "record": made} for n, made in enumerate(listed)],
        mode="a",
    )


def write_lines(file: Path, rows: Iterable[Mapping[str, Any]], mode: str = "w") -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open(mode) as handle:
        handle.writelines(json.dumps(row) + "\n" for row in rows)
    return file
