"""What is known about one answered sample: the line of the journal and of lmms-eval's sample log."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal

Status = Literal["ok", "error", "skipped"]


@dataclass(frozen=True)
class SampleRecord:
    """One sample of one arm, as it ended.

    ``edges_kept`` of ``edges_total`` counts (query, key) pairs of one head, summed over layers.
    """

    id: str  # the document's own id where it has one, else its place in the split
    task: str
    doc_id: int
    status: Status
    reason: str = ""  # why it is not "ok"; one line
    answer: str = ""
    first_token: str | None = None  # the answer's first token, as it is decoded alone: spaces count
    flow: str = "none"  # as the user wrote it
    flow_name: str = ""
    flow_digest: str = ""  # of the bound flow's meaning
    engine: str = ""
    edges_kept: int | None = None
    edges_total: int | None = None
    groups_rule: str = ""  # how the question was found in the prompt
    frames: tuple[int, ...] = ()  # indices into the decoded video
    num_frames: int = 0  # asked for
    reader: str = ""  # the library that decoded the video, with its version
    options: Mapping[str, float] = field(default_factory=dict)  # letter -> probability of being the answer
    flops: int | None = None  # of the prefill under this flow: vision tower, decoder and head
    flops_full: int | None = None  # the same under full attention
    milliseconds: float | None = None  # of the model under this flow
    shared_milliseconds: float | None = None  # reading and encoding the video, for all arms of a question
    checkpoint: str = ""
    vision: str = ""  # "released": the vision tower ran as the paper's scripts ran it
    base: str = ""  # the task whose documents these are: the task itself, or what it is an arm of
    category: str = ""  # of the question, within its task
    protocol: str = ""  # whose prompt and scoring: "paper" or "stock"
    prompt_digest: str = ""  # of the rendered prompt
    data_digest: str = ""  # of the document and the identity of its video
    notes: tuple[str, ...] = ()  # such as: a knockout's group is empty in this prompt

    def __post_init__(self) -> None:
        if self.status not in ("ok", "error", "skipped"):
            raise ValueError(f"a record's status is ok, error or skipped, not {self.status!r}")
        object.__setattr__(self, "frames", tuple(int(index) for index in self.frames))
        object.__setattr__(self, "notes", tuple(str(note) for note in self.notes))
        object.__setattr__(self, "options", {str(k): float(v) for k, v in self.options.items()})

    def to_dict(self) -> dict[str, Any]:
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        return {**values, "frames": list(self.frames), "notes": list(self.notes)}

    def to_json(self) -> str:
        """One line of JSON, without ``<``: the host strips ``<think>`` blocks from what a model returns."""
        return json.dumps(self.to_dict()).replace("<", "\\u003c")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> SampleRecord:
        """Reads what :meth:`to_dict` wrote; unknown fields, from a later version, are left out."""
        known = {item.name for item in fields(cls)}
        return cls(**{name: value for name, value in values.items() if name in known})

    @classmethod
    def from_json(cls, line: str) -> SampleRecord:
        """Raises ``ValueError`` where ``line`` is not a record."""
        values = json.loads(line)
        if not isinstance(values, dict):
            raise ValueError("a record is a JSON object")
        try:
            return cls.from_dict(values)
        except (TypeError, AttributeError) as error:
            raise ValueError(f"not a record: {error}") from None


def read_record(results: Sequence[str]) -> dict[str, Any]:
    if len(results) < 2:
        return {}
    try:
        record = json.loads(results[1])
        if isinstance(record, dict) and record.get("status") in ("ok", "error", "skipped"):
            return record
    except ValueError:
        pass
    return {"status": "error", "reason": "the sample's record can't be read"}
