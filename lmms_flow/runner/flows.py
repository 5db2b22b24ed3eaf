"""Which flow a request is answered under: that of its task, else the model's."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lmms_flow.errors import FlowError, RunError, SkippedSampleError
from lmms_flow.flow import BoundFlow, Flow
from lmms_flow.flow.presets import is_known_for


@dataclass(frozen=True)
class ArmFlow:
    """A flow in the loaded model."""

    flow: Flow
    bound: BoundFlow


class Flows:
    """The flows of a run, each read and bound once."""

    def __init__(self, own: Flow, checkpoint: str, num_layers: int) -> None:
        self.own = ArmFlow(own, own.bind(num_layers))
        self._checkpoint = checkpoint
        self._num_layers = num_layers
        self._known: dict[str, ArmFlow | SkippedSampleError] = {}

    def of(self, task: str, metadata: Mapping[str, Any] | None) -> ArmFlow:
        """The flow of a request of `task`.

        Raises SkippedSampleError where the task's flow is a pathway or a share of the paper that is not known for the
        checkpoint, and RunError where it can't be read, or where `--model_args` names another one.
        """
        text = (metadata or {}).get("flow")
        if text is None:
            return self.own
        if text not in self._known:
            self._known[text] = self._load(task, text)
        found = self._known[text]
        if isinstance(found, SkippedSampleError):
            raise found
        if self.own.flow.needs_masks and self.own.bound.digest != found.bound.digest:
            raise RunError(
                f"task {task} carries the flow {text!r} and --model_args the flow {self.own.flow.text!r}: leave out one"
            )
        return found

    def _load(self, task: str, text: str) -> ArmFlow | SkippedSampleError:
        try:
            flow = Flow.load(text, checkpoint=self._checkpoint)
            return ArmFlow(flow, flow.bind(self._num_layers))
        except FlowError as error:
            if not is_known_for(re.split("[:+]", text), self._checkpoint):
                return SkippedSampleError(str(error))
            raise RunError(f"task {task}: {error}") from None
