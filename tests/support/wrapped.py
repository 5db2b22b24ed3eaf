"""Drives a wrapper as lmms-eval does, and decodes by hand what it must answer without a flow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from lmms_eval.api.instance import Instance
from torch import Tensor

from lmms_flow.errors import RunError
from lmms_flow.model_wrappers.base import FlowModel
from lmms_flow.records.record import SampleRecord
from lmms_flow.tasks.questions import Question, doc_to_messages

GREEDY = {"max_new_tokens": 6, "temperature": 0, "do_sample": False, "until": ["\n\n\n\n"]}
ONE_TOKEN = {**GREEDY, "max_new_tokens": 1}


def question(video: str, **changed: Any) -> Question:
    """A document of a task with the paper's protocol."""
    document: Question = {
        "id": "q",
        "video": video,
        "start": None,
        "end": None,
        "question": "Where does the square move to?",
        "candidates": ["Left", "Right"],
        "answer_letter": "A",
        "family": "direction",
        "pair": None,
    }
    return {**document, **changed}


def messages(video: str, form: str = "paper", **changed: Any) -> list[dict[str, Any]]:
    """What such a task hands a model of a family, by the name of the family's form."""
    return doc_to_messages(question(video, **changed), {"form": form})


def answers(
    model: FlowModel, conversations: Sequence[Any], gen_kwargs: Any = ONE_TOKEN, **document: Any
) -> list[SampleRecord]:
    """The records of one question a conversation."""
    model.task_dict = {"ours": {"test": [{"question": "?", **document} for _ in conversations]}}
    requests = [_request("ours", n, given, gen_kwargs) for n, given in enumerate(conversations)]
    return _records(model, requests)


def arms(model: FlowModel, conversation: Any, flows: Sequence[str]) -> list[SampleRecord]:
    """The records of one question that is asked under each flow in one run, as tasks of lmms-eval are arms."""
    tasks = {f"ours_{number}": flow for number, flow in enumerate(flows)}
    model.task_dict = {task: {"test": [{"question": "?"}]} for task in tasks}
    requests = [
        _request(task, 0, conversation, ONE_TOKEN, base="ours", flow=flow) for task, flow in tasks.items()
    ]
    return _records(model, requests)


def _request(task: str, doc_id: int, given: Any, gen_kwargs: Any, **metadata: str) -> Instance:
    return Instance(
        request_type="generate_until",
        arguments=("", lambda doc: given, gen_kwargs, doc_id, task, "test"),
        idx=0,
        metadata={"lmms_flow": True, "task": task, "doc_id": doc_id, "repeats": 1, **metadata},
    )


def _records(model: FlowModel, requests: list[Instance]) -> list[SampleRecord]:
    return [SampleRecord.from_json(answer[1]) for answer in model.generate_until(requests)]


def edges(record: SampleRecord) -> tuple[int, int]:
    """How many (query, key) pairs a record's flow kept, and of how many."""
    assert record.edges_kept is not None
    assert record.edges_total is not None
    return record.edges_kept, record.edges_total


def refusal(action: Callable[[], Any]) -> str:
    """The one line in which `action` ends the run."""
    with pytest.raises(RunError) as ended:
        action()
    line = str(ended.value)
    assert "\n" not in line
    assert line.startswith("lmms_flow: ")
    assert isinstance(ended.value.code, str), "Python prints it and exits with status 1"
    return line


@torch.no_grad()
def greedy_tokens(
    language_model: Any,
    input_ids: Tensor,
    placeholder: int,
    features: Tensor,
    new_tokens: int,
    stops: set[int],
) -> list[int]:
    """Greedy answers to tokens `[token]`, in which the features `[token, hidden]` take the placeholders' places.

    Every step computes the whole sequence anew.
    """
    row = language_model.get_input_embeddings()(input_ids)
    row[input_ids == placeholder] = features
    tokens: list[int] = []
    for _ in range(new_tokens):
        logits = language_model(inputs_embeds=row[None], use_cache=False).logits[0, -1]
        tokens.append(int(logits.argmax()))
        if tokens[-1] in stops:
            break
        row = torch.cat([row, language_model.get_input_embeddings()(torch.tensor(tokens[-1:]))])
    return tokens
