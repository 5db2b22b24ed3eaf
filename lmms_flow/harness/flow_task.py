"""A task made of another: its documents and its scoring, under a flow.

    task: tvbench_without_late_video
    class: !function lmms_flow.harness.flow_task.FlowTask
    base: tvbench
    flow: video:question@21-+video:last

`base` is a task, a group or a tag that lmms-eval knows; `num_frames` may name another number of frames, `frame_order`
another order of them. Anything else replaces the base's own setting of that name.
"""

from __future__ import annotations

import copy
import hashlib
import json
import weakref
from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

from loguru import logger

from lmms_flow.errors import RecordError, RunError, UserError, nearest
from lmms_flow.flow.files import is_file
from lmms_flow.harness import host
from lmms_flow.harness.broken_documents import BrokenDocuments
from lmms_flow.harness.ground import MODELS, task_manager
from lmms_flow.harness.totals import total
from lmms_flow.inputs.frame_order import FrameOrder
from lmms_flow.records.record import UNREADABLE, SampleRecord, read_record

OWN = ("class", "base", "flow", "num_frames", "frame_order")
LEFT_OUT = ("task", "group", "tag", "task_alias", "group_alias", "include")  # of the base
_HostTask: Any = host.TASK_BASE.take()
COUNTS = ("errors", "skipped")  # samples without an answer
ASKED = (
    "process_results",
    "lmms_eval_specific_kwargs",
    "generation_kwargs",
)  # what a protocol is, beside doc_to_*


class FlowTask(BrokenDocuments, _HostTask):  # type: ignore[misc]
    """An arm: the base's documents, prompts and scores, answered under a flow by a model of this package."""

    lines: ClassVar[str] = (
        "write four lines: task, class, base (a task of lmms-eval) and flow (a TraceTask: trace)"
    )

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.name, self.base = str(config["task"]), str(config.get("base") or "")
        self.flow = str(config.get("flow") or "")
        self.num_frames = config.get("num_frames")
        self.frame_order = config.get("frame_order")
        manager = task_manager()
        if manager is None:
            raise RunError(
                f"task {self.name}: lmms-eval has no task manager in which its base could be found"
            )
        self._check(manager)
        base = copy.deepcopy(host.config_of(manager, self.base))
        if "class" in base:
            raise RunError(
                f"task {self.name}: its base {self.base!r} is made by a class; name the task behind it"
            )
        self._takes_records = bool(_as_dict(base.get("metadata")).get("lmms_flow"))
        self._datasets = _DATASETS.setdefault(manager, {})
        super().__init__(config=self._merged(base, config), model_name=host.model_name_of(manager))

    def _check(self, manager: Any) -> None:
        if not self.base or not self.flow:
            raise RunError(f"task {self.name}: it has no {'flow' if self.base else 'base'}; {self.lines}")
        index, model = host.index_of_tasks(manager), host.model_name_of(manager)
        if self.base not in index:
            raise RunError(
                f"task {self.name}: there is no task {self.base!r} to be its base{nearest(self.base, index)}"
            )
        if index[self.base]["type"] in ("group", "tag"):
            raise RunError(
                f"task {self.name}: its base {self.base!r} is a group of arms; name the group behind it"
            )
        if self.num_frames is not None and (type(self.num_frames) is not int or self.num_frames < 1):
            raise RunError(f"task {self.name}: num_frames is a whole number from 1, not {self.num_frames!r}")
        if self.frame_order is not None:
            try:
                self.frame_order = str(FrameOrder.parse(str(self.frame_order)))
            except UserError as error:
                raise RunError(f"task {self.name}: {error}") from None
        if model and not _runs_flows(model):
            raise RunError(
                f"task {self.name} {self.what_it_asks()}, which the model {model!r} can't "
                f"apply (models that can: {', '.join(MODELS)}, or a subclass of theirs)"
            )

    def what_it_asks(self) -> str:
        """What a model has to be able to do, for an error."""
        return f"runs under the flow {self.flow!r}"

    def is_answered(self, record: SampleRecord) -> bool:
        """Whether the model did what this task asks of it."""
        return record.flow == self.flow

    def _merged(self, base: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
        merged = {key: value for key, value in base.items() if key not in LEFT_OUT}
        own = {key: value for key, value in config.items() if key not in OWN}
        for settings in ("generation_kwargs", "lmms_eval_specific_kwargs"):
            if isinstance(own.get(settings), Mapping) and isinstance(merged.get(settings), Mapping):
                own[settings] = {**merged[settings], **own[settings]}
        if (merged | own).get("filter_list"):
            raise RunError(
                f"task {self.name}: its base {self.base!r} filters answers before it scores them, and a record can't "
                "pass through that; name a base without filter_list"
            )
        metadata = _as_dict(base.get("metadata"))
        if any(key.startswith("doc_to_") or key in ASKED for key in own):
            metadata.pop("protocol", None)  # it asks in its own way
        metadata |= _as_dict(config.get("metadata"))
        metadata |= {
            "lmms_flow": True,
            "base": self.base,
            "flow": self.flow,
            "flow_identity": _identity(self.flow),  # of a file: lmms-eval's cache must not know only its path
            "num_frames": self.num_frames,
            **({"frame_order": self.frame_order} if self.frame_order else {}),
        }
        if not self._takes_records and (merged | own).get("metric_list"):
            own["metric_list"] = [*_counts(), *(merged | own)["metric_list"]]
        return {**merged, **own, "metadata": metadata}

    def download(self, dataset_kwargs: Any = None) -> None:
        """Arms of one base share its data set: some data sets take seconds to look for."""
        settings = (
            "dataset_path",
            "dataset_name",
            "process_docs",
            "training_split",
            "validation_split",
            "test_split",
        )
        key = repr([self.base, dataset_kwargs, *(getattr(self.config, name) for name in settings)])
        if key not in self._datasets:
            super().download(dataset_kwargs)
            self._datasets[key] = {name: getattr(self, name) for name in ("dataset", "dataset_no_image")}
        for name, value in self._datasets[key].items():
            setattr(self, name, value)

    def doc_to_messages(self, doc: Any, **rounds: Any) -> Any:
        """The base's messages; a video says which frames are shown, where this arm has its own."""
        messages = super().doc_to_messages(doc, **rounds)
        own = {"num_frames": self.num_frames, "frame_order": self.frame_order}
        own = {name: value for name, value in own.items() if value is not None}
        if not own:
            return messages
        return [{**message, "content": _with_frames(message["content"], own)} for message in messages]

    def process_results(self, doc: Any, results: Any, full_docs: Any = None, **more: Any) -> Any:
        """The base's scores, and the record; an answer that no flow was applied to is refused, not scored."""
        given = results[0] if isinstance(results[0], list) else results
        try:
            record = read_record(given)
        except RecordError as error:
            logger.warning(f"task {self.name}: {error}")
            return dict(UNREADABLE)
        if record is None or not self.is_answered(record):
            raise RunError(
                f"task {self.name} {self.what_it_asks()}, and the model did not apply it (models that do are "
                "subclasses of lmms_flow's)"
            )
        if self._takes_records:
            return super(BrokenDocuments, self).process_results(doc, results, full_docs=full_docs)
        if record.status != "ok":
            return _counted(record)
        scores, reason = self.scores(doc, [given[0]], record.doc_id, full_docs=full_docs)
        return _counted(replace(record, status="error", reason=reason) if reason else record) | scores


_STATUS = {"errors": "error", "skipped": "skipped"}
_DATASETS: weakref.WeakKeyDictionary[Any, dict[str, Any]] = weakref.WeakKeyDictionary()


def _runs_flows(model: str) -> bool:
    """Whether a model of lmms-eval applies flows; a name that it does not know is for it to refuse."""
    try:
        return bool(getattr(host.GET_MODEL.take()(model), "runs_flows", False))
    except ValueError:
        return True


def _counted(record: SampleRecord) -> dict[str, Any]:
    return {"record": record.to_dict()} | {name: int(record.status == _STATUS[name]) for name in COUNTS}


def _counts() -> list[dict[str, Any]]:
    return [{"metric": name, "aggregation": total, "higher_is_better": False} for name in COUNTS]


def _as_dict(metadata: Any) -> dict[str, Any]:
    """A task's metadata; some stock tasks write it as a list of dictionaries."""
    if isinstance(metadata, list):
        return {key: value for part in metadata if isinstance(part, Mapping) for key, value in part.items()}
    return dict(metadata) if isinstance(metadata, Mapping) else {}


def _identity(flow: str) -> str:
    """What tells two meanings of one text apart: the file's contents, the version that knows the presets."""
    contents = ""
    if is_file(flow):
        try:
            contents = Path(flow).read_text(encoding="utf-8")
        except (OSError, UnicodeError) as error:
            raise RunError(f"flow {flow}: the file can't be read ({error})") from None
    return hashlib.sha256(json.dumps([flow, contents, version("lmms-flow")]).encode()).hexdigest()[:12]


def _with_frames(content: Any, own: Mapping[str, Any]) -> Any:
    if isinstance(content, str):
        return content
    return [{**part, **own} if part.get("type") == "video" else part for part in content]
