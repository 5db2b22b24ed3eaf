"""A task made of another: its documents and its scoring under full attention, and what is read out beside the answer.

    task: tvbench_antonyms_map
    class: !function lmms_flow.harness.trace_task.TraceTask
    base: tvbench_action_antonym
    trace: map

`base` is a task, a group or a tag that lmms-eval knows. `trace` is a kind, a list of kinds, or settings by their names
(docs/maps.md): `trace: {kinds: map, knockouts: [cross_frame, "video:question"], window: 5, style: center}`.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, ClassVar

from lmms_flow.errors import FlowError, RunError
from lmms_flow.flow.controls import NONE
from lmms_flow.flow.trace_settings import TraceSettings, written
from lmms_flow.harness.flow_task import FlowTask
from lmms_flow.records.record import SampleRecord


class TraceTask(FlowTask):
    """The base's documents, prompts and scores; a model of this package keeps arrays beside each answer."""

    lines: ClassVar[str] = "write four lines: task, class, base (a task of lmms-eval) and trace"

    def __init__(self, config: Mapping[str, Any]) -> None:
        name = str(config["task"])
        if config.get("flow") not in (None, NONE.name):
            raise RunError(
                f"task {name}: a trace is read under full attention; leave flow {config['flow']!r} out"
            )
        if not config.get("trace"):
            raise RunError(f"task {name}: it has no trace; {self.lines}")
        try:
            self.trace = written(config["trace"])
            TraceSettings.from_mapping(self.trace)
        except FlowError as error:
            raise RunError(f"task {name}: {error}") from None
        super().__init__(
            {key: value for key, value in config.items() if key != "trace"} | {"flow": NONE.name}
        )

    def what_it_asks(self) -> str:
        """What a model has to be able to do, for an error."""
        return "keeps a trace of each answer"

    def _merged(self, base: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
        merged = super()._merged(base, config)
        merged["metadata"]["trace"] = copy.deepcopy(self.trace)
        return merged

    def is_answered(self, record: SampleRecord) -> bool:
        """Whether the model kept a trace."""
        traced = bool(record.trace) and (record.status != "ok" or bool(record.arrays))
        return super().is_answered(record) and traced
