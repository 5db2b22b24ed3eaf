"""The files that lmms-eval writes: one results file a run, and beside it one log of samples a task."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ..errors import ReportError

MARK = "_samples_"  # lmms-eval names its logs TIME_samples_TASK.jsonl
OUR_WRAPPERS = "lmms_flow."  # how the class of a model of ours begins in a results file
OUR_ARGUMENTS = ("flow", "records", "on_error")  # and what only our models take


@dataclass(frozen=True)
class Run:
    """One run of lmms-eval: its logs, and its results file where there is one."""

    folder: Path
    time: str
    logs: tuple[Path, ...]
    root: Path  # the folder that was named, in which these were found

    @cached_property
    def results(self) -> Mapping[str, Any]:
        """The results file; empty where there is none. Raises ReportError where it is damaged."""
        file = self.folder / f"{self.time}_results.json"
        if not file.is_file():
            return {}
        try:
            values = json.loads(file.read_bytes())
        except (ValueError, RecursionError):
            values = None
        if not isinstance(values, dict):
            raise ReportError(f"{file}: not JSON, the results are damaged")
        return values

    @property
    def config(self) -> Mapping[str, Any]:
        """The run's configuration, as its results file has it."""
        return _mapping(self.results.get("config"))

    @property
    def model(self) -> str:
        """The name of the model, as `--model` was given."""
        return str(self.config.get("model") or "")

    @cached_property
    def model_args(self) -> Mapping[str, str]:
        """The arguments of the model, each as text."""
        given = self.config.get("model_args") or ""
        return (
            {str(k): str(v) for k, v in given.items()} if isinstance(given, dict) else split_arguments(given)
        )

    @property
    def is_ours(self) -> bool:
        """Whether the model is one of ours, or a user's subclass of one, so that its samples have records."""
        backend = str(self.config.get("model_backend") or "")
        return backend.startswith(OUR_WRAPPERS) or any(name in self.model_args for name in OUR_ARGUMENTS)

    def metrics(self, task: str) -> list[str]:
        """The names of a task's metrics, as its configuration lists them."""
        listed = _mapping(_mapping(self.results.get("configs")).get(task)).get("metric_list")
        metrics = map(_mapping, listed if isinstance(listed, list) else ())
        return [str(metric["metric"]) for metric in metrics if "metric" in metric]


def _mapping(value: object) -> Mapping[str, Any]:
    """What a results file should have as an object; an empty one where it has something else."""
    return value if isinstance(value, dict) else {}


def find_runs(folders: Sequence[str | Path]) -> list[Run]:
    """The runs in these folders and all folders in them, the earliest first."""
    found: dict[tuple[Path, str], tuple[Path, list[Path]]] = {}
    for root in map(Path, folders):
        if not root.is_dir():
            raise ReportError(f"{root}: there is no such folder")
        for log in sorted(root.rglob(f"*{MARK}*.jsonl")):
            _, logs = found.setdefault((log.parent, log.name.partition(MARK)[0]), (root, []))
            if log not in logs:
                logs.append(log)
    runs = [Run(folder, time, tuple(logs), root) for (folder, time), (root, logs) in found.items()]
    return sorted(runs, key=lambda run: (run.time, max(log.stat().st_mtime_ns for log in run.logs)))


def task_of(log: Path) -> str:
    """The task of a sample log, by its name."""
    return log.stem.partition(MARK)[2]


def read_lines(file: Path) -> Iterator[Mapping[str, Any]]:
    """The samples of a log. Raises ReportError with file and line where it is damaged."""
    with file.open("rb") as handle:
        for number, line in enumerate(handle, 1):
            try:
                values = json.loads(line.decode())
            except (ValueError, RecursionError):  # not UTF-8 is a ValueError as well
                raise ReportError(f"{file}, line {number}: not JSON, the log is damaged") from None
            if not isinstance(values, dict):
                raise ReportError(
                    f"{file}, line {number}: not a JSON object, so this is no sample log of lmms-eval"
                )
            yield values


def first_answer(line: Mapping[str, Any]) -> str:
    """What the model said, before the host's filters: it logs both where they differ."""
    value = line.get("resps", line.get("filtered_resps", ""))
    while isinstance(value, list):
        value = value[0] if value else ""
    return str(value).strip()


def split_arguments(text: str) -> dict[str, str]:
    """`--model_args` as lmms-eval reads it: at commas outside quotes and brackets, each part at its first "="."""
    parts = re.findall(r"""((?:"[^"]*"|'[^']*'|\{[^}]*\}|\[[^]]*\]|[^,])+)""", str(text))
    pairs = (part.partition("=") for part in parts)
    return {name.strip(): value.strip() for name, equals, value in pairs if equals}
