"""The fields of a record by who knows them: the run, for every sample of a request, or the answer to one sample.

Together with what the request loop adds (id, task, doc_id, status, reason, answer) and what the journal adds (arrays,
shapes) they are the fields of :class:`lmms_flow.records.record.SampleRecord`, which says what each of them means. A
test holds them to that.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypedDict


class RunFields(TypedDict, total=False):
    """What every record of a request says, also where the sample failed."""

    flow: str
    flow_name: str
    flow_digest: str
    engine: str
    num_frames: int
    frame_order: str
    checkpoint: str
    vision: str
    frame_size: str
    base: str
    category: str
    pair: str
    video_key: str
    protocol: str
    trace: str
    num_layers: int | None
    runtime: str


class PromptFields(TypedDict, total=False):
    """What is known of a sample before its answer: its video, its prompt, and what the flow cuts of that."""

    edges_kept: int | None
    edges_total: int | None
    groups_rule: str
    frames: tuple[int, ...]
    unit: str
    reader: str
    flops: int | None
    flops_full: int | None
    prompt_digest: str
    data_digest: str
    clip: str
    video: str
    notes: tuple[str, ...]


class AnswerFields(PromptFields, total=False):
    """What is known of an answer beside its text."""

    first_token: str | None
    options: Mapping[str, float]
    milliseconds: float | None
    shared_milliseconds: float | None
