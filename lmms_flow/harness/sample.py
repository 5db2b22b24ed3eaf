"""One request of the host, unpacked; and what became of it."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias, Unpack

from lmms_flow.errors import SampleError
from lmms_flow.harness import host
from lmms_flow.records.arrays import Arrays
from lmms_flow.records.fields import AnswerFields, RunFields
from lmms_flow.records.record import SampleRecord, Status


@dataclass(frozen=True)
class Sample:
    """One question about one document, in no way tied to the host's objects."""

    index: int  # of the host's request
    task: str
    split: str
    doc_id: int
    doc: Mapping[str, Any]
    messages: tuple[dict[str, Any], ...]  # {"role": ..., "content": [{"type": "text" | "video" | ..., ...}]}
    gen_kwargs: dict[str, Any]  # a copy: the host computes the key of its cache from its own
    metadata: Mapping[str, Any] = field(default_factory=dict)
    repeat: int = 0  # how often the same request came before in this run

    @property
    def id(self) -> str:
        """The document's own id where it has one, else its place in the split."""
        return id_of(self.doc, self.doc_id)

    @property
    def is_ours(self) -> bool:
        """Whether the task is one of this package: those take a record beside the answer."""
        return takes_records(self.metadata)

    @property
    def question(self) -> QuestionId:
        """What the arms of one question share."""
        return question_of(self.task, self.split, self.doc_id, self.metadata)

    def videos(self) -> list[dict[str, Any]]:
        """The video parts of the messages, in order: ``{"type", "url", "start_time"?, "end_time"?}``."""
        parts = [part for message in self.messages for part in message["content"]]
        return [part for part in parts if part.get("type") == "video"]


def id_of(doc: Any, doc_id: int) -> str:
    """The document's own id where it has one, else its place in the split."""
    own = doc.get("id") if isinstance(doc, Mapping) else None
    return str(doc_id if own in (None, "") else own)


# The key of a video in documents of lmms-eval's tasks. A file's name is none: files in two folders may share it.
VIDEO_KEYS = ("video_id", "videoID", "VideoID", "video_name", "video_idx", "video_uid", "youtube_id")


def video_key_of(doc: Any) -> str:
    """The document's own key for its video; empty where it has none."""
    values = (doc.get(name) for name in VIDEO_KEYS) if isinstance(doc, Mapping) else ()
    known = (value for value in values if isinstance(value, str | int) and not isinstance(value, bool))
    return next((text for value in known if (text := str(value).strip())), "")


QuestionId: TypeAlias = tuple[str, str, int]  # base task, split, document


def question_of(task: str, split: str, doc_id: int, metadata: Mapping[str, Any] | None) -> QuestionId:
    """An arm names the task whose documents it has as its base; any other task is its own."""
    return str((metadata or {}).get("base") or task), split, doc_id


def takes_records(metadata: Mapping[str, Any] | None) -> bool:
    """Whether a request is of a task of this package, by its metadata."""
    return bool((metadata or {}).get("lmms_flow"))


def traced(metadata: Mapping[str, Any] | None) -> Any:
    """What a task of ours reads out beside its answers, as it was written; None for a task that reads nothing."""
    return (metadata or {}).get("trace") if takes_records(metadata) else None


@dataclass(frozen=True)
class Outcome:
    """What a model made of a sample; ``details`` are fields of its record, such as ``frames``."""

    status: Status
    answer: str = ""
    reason: str = ""
    path: str | None = None  # the file that an error is about
    details: AnswerFields = field(default_factory=AnswerFields)
    arrays: Arrays | None = None  # what a trace read out

    @classmethod
    def ok(cls, answer: str, **details: Unpack[AnswerFields]) -> Outcome:
        """An answer, with what is known about it."""
        return cls("ok", answer=answer, details=details)

    @classmethod
    def failed(cls, error: SampleError, **details: Unpack[AnswerFields]) -> Outcome:
        """An error, or a skipped sample where that is what was raised."""
        return cls(
            "skipped" if error.is_skip else "error", reason=str(error), path=error.path, details=details
        )

    def record(self, task: str, doc_id: int, sample_id: str, run: RunFields) -> SampleRecord:
        """The record of a sample.

        Args:
            task: the sample's.
            doc_id: its document's place in the split.
            sample_id: the document's own id (:func:`id_of`).
            run: what every record of the request says.

        Raises:
            TypeError: a field is none of a record's.
        """
        return SampleRecord(
            id=sample_id,
            task=task,
            doc_id=doc_id,
            status=self.status,
            reason=self.reason,
            answer=self.answer,
            **run,
            **self.details,
        )


def unpack(request: Any, index: int, docs: Mapping[str, Any], repeat: int = 0) -> Sample:
    """Reads a chat request of lmms-eval: ``(context, doc_to_messages, gen_kwargs, doc_id, task, split)``.

    Args:
        request: of lmms-eval.
        index: the request's place among those of the run.
        docs: the model's ``task_dict``: ``docs[task][split][doc_id]`` is the document.
        repeat: how often the same request came before in this run.

    Raises:
        SampleError: the task can't make messages of its document.
    """
    _, doc_to_messages, gen_kwargs, doc_id, task, split = host.arguments_of(request)
    try:
        doc = docs[task][split][doc_id]
        messages = doc_to_messages(doc)
        content = tuple(_message(message) for message in messages)
    except SampleError:
        raise
    except (Exception, SystemExit) as error:  # stock tasks call sys.exit() where a video is missing
        raise SampleError(f"the task can't make a prompt of the document ({describe(error)})") from error
    return Sample(
        index=index,
        task=task,
        split=split,
        doc_id=doc_id,
        doc=doc,
        messages=content,
        gen_kwargs=copy.deepcopy(dict(gen_kwargs)),
        metadata=dict(request.metadata or {}),
        repeat=repeat,
    )


def describe(error: BaseException) -> str:
    """Type and text of an exception; some, such as KeyError, say nothing without their type.

    lmms-eval tries some things several times: then it is what the last attempt raised.
    """
    last = getattr(error, "last_attempt", None)
    error = (last.exception() if last is not None else None) or error
    return f"{type(error).__name__}: {error}"


def _message(message: Mapping[str, Any]) -> dict[str, Any]:
    content: str | Sequence[Mapping[str, Any]] = message["content"]
    if isinstance(content, str):
        return {"role": message["role"], "content": [{"type": "text", "text": content}]}
    return {"role": message["role"], "content": [dict(part) for part in content]}
