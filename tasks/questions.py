"""Multiple-choice questions about a video, as our tasks ask and score them.

Every benchmark brings its rows into one form (:class:`Question`); prompt and scoring are then the same for all.
A task's YAML names these functions, so that lmms-eval builds it for simple and for chat models alike.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NotRequired, TypedDict, TypeVar

from loguru import logger

from lmms_flow.errors import RecordError, SampleError, nearest, one_line
from lmms_flow.flow.controls import UNCUT
from lmms_flow.harness.sample import video_key_of
from lmms_flow.inputs.forms import FORMS, LETTERS, Form, question_text
from lmms_flow.records.record import UNREADABLE, SampleRecord, read_record

Row = TypeVar("Row")


class _Question(TypedDict):
    """What every question has. ``start`` and ``end`` are the clip's bounds in seconds, None for the whole file."""

    id: str
    video: str  # an absolute path
    start: float | None
    end: float | None
    question: str
    candidates: list[str]
    answer_letter: str
    family: str
    pair: str | None  # questions of one pair differ in what the video shows, not in their words
    problem: NotRequired[str]  # why the row can't be asked about; such a question is one failed sample


class Question(_Question, total=False):
    """One document of a task; these fields are there where a benchmark brings them."""

    options: list[str]  # with their marks
    duration: float  # of the video in seconds, which counts where frames are taken by the second
    video_id: str  # the row's own key for its video, by which questions about one video are one cluster


def dataset(
    rows: Iterable[Row], read: Callable[[Row], Any], check: Callable[[Any], Any] | None = None
) -> Any:
    """Rows of a benchmark as a data set of questions.

    A row that can't be read, or that has no valid answer, becomes a question with a `problem`: its sample fails, the
    others don't.

    Args:
        rows: of the benchmark.
        read: makes a question of a row.
        check: raises ValueError where it is none; by default where it has no options with one right answer.
    """
    import datasets

    checked = check or _checked
    questions = []
    for index, row in enumerate(rows):
        question = _read(index, row, lambda each: checked(read(each)))
        key = video_key_of(row)
        questions.append({**question, "video_id": key} if key else question)
    families = {question["family"] for question in questions if not question.get("problem")}
    for question in questions:
        if question.get("problem") and len(families) == 1:
            question["family"] = next(iter(families))
    columns = list(dict.fromkeys(name for question in questions for name in question))
    return datasets.Dataset.from_list([{name: one.get(name) for name in columns} for one in questions])


def _read(index: int, row: Any, read: Callable[[Any], Any]) -> Any:
    try:
        return read(row)
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        problem = str(error) if type(error) is ValueError else f"{type(error).__name__}: {error}"
    content = row[1] if isinstance(row, tuple) else row
    named = [content.get(name) for name in ("id", "question_id")] if isinstance(content, Mapping) else []
    own = next((str(name) for name in named if name not in (None, "")), str(index))
    empty = Question(
        id=own,
        video="",
        start=None,
        end=None,
        question="",
        candidates=[],
        answer_letter="",
        family="",
        pair=None,
    )
    return {**empty, "problem": one_line(f"the document can't be asked about ({problem})")}


def refuse_broken(doc: Mapping[str, Any]) -> None:
    """Raises SampleError for a row that could not be read."""
    if problem := doc.get("problem"):
        raise SampleError(problem)


def doc_to_visual(doc: Mapping[str, Any]) -> list[str]:
    """The video's path, for simple models."""
    refuse_broken(doc)
    return [doc["video"]]


def video_of(doc: Mapping[str, Any]) -> dict[str, Any]:
    """The clip as a part of a message: its path, and its bounds in seconds where it has them."""
    refuse_broken(doc)
    bounds = {"start_time": doc["start"], "end_time": doc["end"]}
    return {"type": "video", "url": doc["video"]} | {
        name: seconds for name, seconds in bounds.items() if seconds is not None
    }


def doc_to_text(doc: Question, lmms_eval_specific_kwargs: Mapping[str, Any] | None = None) -> str:
    """The text of the user's turn, in the form that the task's YAML picks for the model (``form``)."""
    if doc.get("problem"):
        return ""  # lmms-eval asks while it lists its requests; messages and video are refused
    form = _form(lmms_eval_specific_kwargs)
    own = doc.get("options")
    return question_text(form, doc["question"], own or doc["candidates"], marked=bool(own))


def doc_to_messages(
    doc: Question, lmms_eval_specific_kwargs: Mapping[str, Any] | None = None
) -> list[dict[str, Any]]:
    """The same for chat models: the clip, the question, and the beginning of the answer where there is one.

    The YAML may also say how frames are taken (``sampling``, ``num_frames``); what it leaves out is the model's.
    """
    video = video_of(doc)
    given = lmms_eval_specific_kwargs or {}
    video |= {name: given[name] for name in ("sampling", "num_frames") if name in given}
    if given.get("sampling") == "segment_starts" and doc.get("duration") is not None:
        video["duration"] = doc["duration"]
    text = {"type": "text", "text": doc_to_text(doc, given)}
    messages = [{"role": "user", "content": [video, text]}]
    if begun := _form(given).answer:
        messages.append({"role": "assistant", "content": [{"type": "text", "text": begun}]})
    return messages


def doc_to_target(doc: Question) -> str:
    """The letter of the right option."""
    return doc["answer_letter"]


def answered_letter(answer: str, options: int) -> str | None:
    """The letter that an answer begins with ("A", "(A)", "A. left"), or None where it begins with none.

    Strict, since guessing a letter out of a sentence scores models by how they talk. A word is no letter: in
    "A man walks" the A is an article, so a letter must be alone or followed by a mark.
    """
    found = re.match(r"\(?([A-Z])(?:$|[).:,\]\n]|\s*$)", answer.strip())
    return found[1] if found and found[1] in LETTERS[:options] else None


def decoded_letter(token: str, options: int, any_case: bool) -> str | None:
    """The letter that a first token is, by the paper's rule: the token decoded alone must equal it.

    So " A" and "(A" are none. Lower case counts with `any_case`: the paper's code reads so under full attention, and
    not under a knockout.
    """
    read = token.upper() if any_case else token
    return next((letter for letter in LETTERS[:options] if letter == read), None)


def process_results(doc: Question, results: Sequence[str]) -> dict[str, Any]:
    """Scores one answer: ``[text]`` of any model, or ``[text, record]`` of ours.

    Ours in the paper's protocol are scored by the first token (:func:`decoded_letter`), any other model by the letter
    with which its text begins (:func:`answered_letter`). A sample without an answer has no accuracy, which leaves it
    out of the mean. ``accuracy`` comes last: the host takes a task's size, by which it weighs the task in a group, from
    the last metric.
    """
    try:
        record = read_record(results)
    except RecordError as error:
        logger.warning(str(error))
        return dict(UNREADABLE)
    status = record.status if record else "ok"
    scores: dict[str, Any] = {"record": record.to_dict()} if record else {}
    scores |= {"errors": int(status == "error"), "skipped": int(status == "skipped")}
    if status == "ok":
        letter = _letter(results[0], record, len(doc["candidates"]))
        scores |= {"unreadable": int(letter is None), "accuracy": float(letter == doc["answer_letter"])}
    return scores


def _letter(answer: str, record: SampleRecord | None, options: int) -> str | None:
    if record is None or record.protocol != "paper" or record.first_token is None:
        return answered_letter(answer, options)
    return decoded_letter(record.first_token, options, any_case=record.flow in UNCUT)


def _form(given: Mapping[str, Any] | None) -> Form:
    name = (given or {}).get("form", "paper")
    if name not in FORMS:
        raise ValueError(
            f"a task's YAML names the form {name!r}{nearest(name, FORMS)} (forms: {', '.join(FORMS)})"
        )
    return FORMS[name]


def _checked(question: Question) -> Question:
    """Raises ValueError where it is no question with one right answer."""
    for name in ("id", "video", "question", "answer_letter", "family"):
        if not isinstance(question[name], str):
            raise ValueError(f"its {name} is {question[name]!r}, not text")
    for bound in (question["start"], question["end"]):
        if bound is not None and (isinstance(bound, bool) or not isinstance(bound, (int, float))):
            raise ValueError(f"its clip's bound is {bound!r}, not seconds")
    for candidate in question["candidates"]:
        if not isinstance(candidate, str):
            raise ValueError(f"its option {candidate!r} is {type(candidate).__name__}, not text")
    valid = LETTERS[: len(question["candidates"])]
    count = len(question["candidates"])
    if not 2 <= count <= len(LETTERS):
        raise ValueError(f"a question needs 2 to {len(LETTERS)} options, this one has {count}")
    if len(question["answer_letter"]) != 1 or question["answer_letter"] not in valid:
        raise ValueError(f"the answer {question['answer_letter']!r} is not one of {valid}")
    return question
