"""Open questions about a video: asked without options, answered by a sentence that goes on, or freely.

A task's YAML names these functions as the multiple-choice ones (:mod:`lmms_flow.tasks.questions`). What it says of the
prompt is in `lmms_eval_specific_kwargs`: `system` takes the place of the model's own sentence, `label` stands in front
of the question.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NotRequired, TypedDict

from loguru import logger

from lmms_flow.errors import RecordError
from lmms_flow.records.record import UNREADABLE, read_record
from lmms_flow.tasks.questions import doc_to_visual, video_of

__all__ = [
    "doc_to_messages",
    "doc_to_target",
    "doc_to_text",
    "doc_to_visual",
    "process_results",
]  # a YAML names these


class OpenQuestion(TypedDict):
    """One document. ``begun`` is the beginning of the answer that the model goes on from, empty where it begins itself.

    ``start`` and ``end`` are the clip's bounds in seconds, None for the whole file.
    """

    id: str
    video: str  # an absolute path
    start: float | None
    end: float | None
    question: str
    answer: str
    begun: str
    family: str
    problem: NotRequired[str]  # why the row can't be asked about; such a question is one failed sample


def checked(question: OpenQuestion) -> OpenQuestion:
    """The question. Raises ValueError where it can't be asked, or has no answer."""
    for name in ("id", "video", "question", "answer", "begun", "family"):
        if not isinstance(question[name], str):
            raise ValueError(f"its {name} is {question[name]!r}, not text")
    for name in ("question", "answer"):
        if not question[name].strip():  # type: ignore[literal-required]
            raise ValueError(f"its {name} is empty")
    for bound in (question["start"], question["end"]):
        if bound is not None and (isinstance(bound, bool) or not isinstance(bound, (int, float))):
            raise ValueError(f"its clip's bound is {bound!r}, not seconds")
    return question


def doc_to_text(doc: OpenQuestion, lmms_eval_specific_kwargs: Mapping[str, Any] | None = None) -> str:
    """The text of the user's turn."""
    if doc.get("problem"):
        return ""  # lmms-eval asks while it lists its requests; messages and video are refused
    return f"{(lmms_eval_specific_kwargs or {}).get('label', '')}{doc['question']}"


def doc_to_messages(
    doc: OpenQuestion, lmms_eval_specific_kwargs: Mapping[str, Any] | None = None
) -> list[dict[str, Any]]:
    """For chat models: the system's sentence, the clip and the question, and the beginning of the answer."""
    content = [video_of(doc), {"type": "text", "text": doc_to_text(doc, lmms_eval_specific_kwargs)}]
    messages: list[dict[str, Any]] = [{"role": "user", "content": content}]
    if system := (lmms_eval_specific_kwargs or {}).get("system"):
        messages.insert(0, {"role": "system", "content": [{"type": "text", "text": str(system)}]})
    if doc["begun"]:
        messages.append({"role": "assistant", "content": [{"type": "text", "text": doc["begun"]}]})
    return messages


def doc_to_target(doc: OpenQuestion) -> str:
    """The words of the answer."""
    return doc["answer"]


def begins(answer: str, expected: str) -> bool:
    """Whether the expected words begin with what was answered: the paper tracks the first token that is no space."""
    return bool(answer.strip()) and expected.strip().lower().startswith(answer.strip().lower())


def process_results(doc: OpenQuestion, results: Sequence[str]) -> dict[str, Any]:
    """Scores one answer: ``[text]`` of any model, or ``[text, record]`` of ours.

    A sentence that goes on is right if its first token is the beginning of the expected words; a free answer has no
    accuracy. ``accuracy`` comes last, as in the multiple-choice tasks.
    """
    try:
        record = read_record(results)
    except RecordError as error:
        logger.warning(str(error))
        return dict(UNREADABLE)
    status = record.status if record else "ok"
    scores: dict[str, Any] = {"record": record.to_dict()} if record else {}
    scores |= {"errors": int(status == "error"), "skipped": int(status == "skipped")}
    if status == "ok" and doc["begun"]:
        first = next(iter(results[0].split()), "")
        if record and record.first_token is not None:
            first = record.first_token
        scores["accuracy"] = float(begins(first, doc["answer"]))
    return scores
