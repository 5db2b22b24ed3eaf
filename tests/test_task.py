"""Our tasks: the paper's prompt word for word, scoring by the letter, errors that are no wrong answers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from lmms_flow.harness import plugin
from lmms_flow.harness.ground import MODELS
from lmms_flow.records.record import SampleRecord
from lmms_flow.tasks import questions
from lmms_flow.tasks.flowbench import rows as flowbench
from lmms_flow.tasks.questions import Question, answered_letter, process_results
from tests.support.flowbench import made_flowbench

TASKS = plugin.tasks_folder()


def question(**changes: object) -> Question:
    values = {
        "id": "q1",
        "video": "/clips/a.mp4",
        "start": None,
        "end": None,
        "question": "What does the person do?",
        "candidates": ["Sits down.", "Stands up."],
        "answer_letter": "B",
        "family": "action_antonym",
        "pair": None,
        **changes,
    }
    return Question(**values)


def record(status: str = "ok", **fields: object) -> str:
    return SampleRecord(id="q1", task="t", doc_id=0, status=status, **fields).to_json()  # type: ignore[arg-type]


def test_the_papers_prompt() -> None:
    text = (
        "Question: What does the person do?\nOptions:\n(A) Sits down.\n(B) Stands up. \n"
        "Only give the best option."
    )
    assert questions.doc_to_text(question()) == text
    assert questions.doc_to_messages(question()) == [
        {
            "role": "user",
            "content": [{"type": "video", "url": "/clips/a.mp4"}, {"type": "text", "text": text}],
        },
        {"role": "assistant", "content": [{"type": "text", "text": "Best option:("}]},
    ]


def test_four_options_and_a_clip_in_a_longer_video() -> None:
    doc = question(candidates=list("wxyz"), answer_letter="D", start=1.5, end=4.0)
    assert "(A) w\n(B) x\n(C) y\n(D) z \nOnly" in questions.doc_to_text(doc)
    video = questions.doc_to_messages(doc)[0]["content"][0]
    assert video == {"type": "video", "url": "/clips/a.mp4", "start_time": 1.5, "end_time": 4.0}


def test_the_host_understands_the_messages() -> None:
    from lmms_eval.protocol import ChatMessages

    messages = ChatMessages(messages=questions.doc_to_messages(question(start=1.0, end=2.0)))
    assert messages.extract_media()[1] == ["/clips/a.mp4"]


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("A", "A"),
        (" B\n", "B"),
        ("(B)", "B"),
        ("(B", "B"),
        ("B) Stands up.", "B"),
        ("A. Sits down.", "A"),
        ("A: it sits", "A"),
        ("A\nbecause", "A"),
        ("A man walks.", None),
        ("Answer: A", None),
        ("The best option is (A)", None),
        ("C", None),
        ("a", None),
        ("AB", None),
        ("", None),
        ("(", None),
    ],
)
def test_the_letter_that_an_answer_begins_with(answer: str, letter: str | None) -> None:
    assert answered_letter(answer, options=2) == letter


def test_any_models_text_is_scored() -> None:
    assert process_results(question(), ["(B)"]) == {
        "errors": 0,
        "skipped": 0,
        "unreadable": 0,
        "accuracy": 1.0,
    }
    assert process_results(question(), ["A"])["accuracy"] == 0.0
    talk = process_results(question(), ["It stands up"])
    assert (talk["accuracy"], talk["unreadable"]) == (0.0, 1)


def test_our_models_record_is_logged() -> None:
    scores = process_results(
        question(), ["B", record(answer="B", flow="video:last", options={"A": 0.2, "B": 0.8})]
    )
    assert scores["accuracy"] == 1.0
    assert scores["record"]["flow"] == "video:last"
    assert scores["record"]["options"] == {"A": 0.2, "B": 0.8}


@pytest.mark.parametrize(
    ("token", "flow", "right"),
    [
        ("B", "none", 1.0),
        ("B", "video:last", 1.0),
        ("b", "none", 1.0),  # under full attention the paper's code reads any case
        ("b", "sham", 1.0),
        ("b", "video:last", 0.0),
        (" B", "none", 0.0),
        ("(B", "none", 0.0),
        ("B)", "video:last", 0.0),
        ("A", "none", 0.0),
        ("", "none", 0.0),
    ],
)
def test_ours_are_scored_by_the_first_token_alone(token: str, flow: str, right: bool) -> None:
    """The paper's rule: what the likeliest token decodes to equals the letter."""
    scores = process_results(
        question(), ["B", record(answer="B", flow=flow, first_token=token, protocol="paper")]
    )
    assert scores["accuracy"] == right
    assert scores["unreadable"] == int(token not in ("A", "B", "b") or (token == "b" and not right))
    stock = record(answer="B", flow=flow, first_token=token, protocol="stock")
    assert process_results(question(), ["(B)", stock])["accuracy"] == 1.0


@pytest.mark.parametrize(("status", "counted"), [("error", "errors"), ("skipped", "skipped")])
def test_a_sample_without_an_answer_is_no_wrong_answer(status: Any, counted: Any) -> None:
    scores = process_results(question(), ["", record(status, reason="the video is missing")])
    assert scores[counted] == 1
    assert "accuracy" not in scores
    assert scores["record"]["reason"] == "the video is missing"


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"status": "fine"}', ""])
def test_a_record_that_can_not_be_read_is_an_error(text: str) -> None:
    scores = process_results(question(), ["B", text])
    assert scores["errors"] == 1
    assert "accuracy" not in scores


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"candidates": ["one"], "answer_letter": "A"}, "a question needs 2 to 10 options, this one has 1"),
        ({"answer_letter": "C"}, "the answer 'C' is not one of AB"),
        ({"answer_letter": ""}, "the answer '' is not one of AB"),
        ({"answer_letter": "AB"}, "the answer 'AB' is not one of AB"),
        ({"candidates": ["one", 2]}, "its option 2 is int, not text"),
        ({"start": "soon"}, "its clip's bound is 'soon', not seconds"),
        ({"id": 7}, "its id is 7, not text"),
    ],
)
def test_a_row_without_a_valid_answer_is_a_question_that_says_so(changes: dict[str, Any], says: str) -> None:
    (doc,) = questions.dataset([{"id": "q1"}], lambda row: question(**changes))
    assert doc["problem"] == f"the document can't be asked about ({says})"
    assert doc["id"] == "q1"


def test_every_family_has_a_task_in_the_group() -> None:
    group = yaml.load((TASKS / "flowbench/flowbench.yaml").read_text(), Loader=_AnyTag)
    assert group["task"] == [f"flowbench_{family}" for family in flowbench.FAMILIES]
    for family in flowbench.FAMILIES:
        config = yaml.load((TASKS / f"flowbench/{family}.yaml").read_text(), Loader=_AnyTag)
        assert config["task"] == f"flowbench_{family}"


def test_each_of_our_models_answers_with_one_token() -> None:
    shared = yaml.load((TASKS / "_paper_protocol.yaml").read_text(), Loader=_AnyTag)
    kwargs = shared["model_specific_generation_kwargs"]
    papers = ("llava_vid_flow", "internvl_flow", "videollama3_flow")
    assert {model: kwargs[model]["max_new_tokens"] for model in papers} == dict.fromkeys(papers, 1)
    assert set(papers) <= set(MODELS)


def test_a_family_that_there_is_not_is_named() -> None:
    with pytest.raises(AttributeError, match="no family 'colour'"):
        flowbench.colour  # noqa: B018


def test_the_bundled_rows_are_valid_and_their_clips_exist() -> None:
    folder = flowbench.assets.flowbench_dir()
    if not (folder / "clips").is_dir():
        pytest.skip("flowbench has no clips yet")
    for family in flowbench.FAMILIES:
        rows = [json.loads(line) for line in Path(getattr(flowbench, family)).read_text().splitlines()]
        docs = [questions._checked(flowbench._read(row)) for row in rows]
        assert docs, family
        assert len({doc["id"] for doc in docs}) == len(docs)
        for doc, row in zip(docs, rows, strict=True):
            assert row["candidates"][questions.LETTERS.index(doc["answer_letter"])] == row["answer"]
            assert Path(doc["video"]).is_file()


class _AnyTag(yaml.SafeLoader):
    """Reads `!function x.y` as the text x.y."""


_AnyTag.add_constructor("!function", lambda loader, node: node.value)


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """The task of one family, over a made file, as the host builds it for a chat and for a simple model."""
    from lmms_eval.api import task as host
    from lmms_eval.tasks import TaskManager

    folder = tmp_path_factory.mktemp("flowbench")
    made_flowbench(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flowbench.assets, "flowbench_dir", lambda: folder)
        patch.setenv("LMMS_EVAL_DATASETS_CACHE", str(folder / "cache"))
        host._resolve_hf_datasets_cache_dir.cache_clear()
        plugin.make_tasks_known()
        manager = TaskManager(include_defaults=False, model_name="llava_vid_flow")
        yield {
            kind: manager.load_task_or_group("flowbench_moving_direction", kind)["flowbench_moving_direction"]
            for kind in ("chat", "simple")
        }
    host._resolve_hf_datasets_cache_dir.cache_clear()


def test_the_host_builds_chat_requests(loaded: dict[str, Any]) -> None:
    task = loaded["chat"]
    task.build_all_requests()
    request = task.instances[1]
    _, doc_to_messages, gen_kwargs, doc_id, name, split = request.args
    doc = task.dataset[split][doc_id]
    assert (name, split, doc["id"]) == ("flowbench_moving_direction", "test", "moving_direction-1")
    video = doc_to_messages(doc)[0]["content"][0]["url"]
    assert Path(video).is_absolute()
    assert Path(video).is_file()
    assert gen_kwargs["max_new_tokens"] == 1
    assert request.metadata["lmms_flow"] is True


def test_each_model_is_asked_in_its_own_form(loaded: dict[str, Any]) -> None:
    """The form follows the model's name, which the host hands to the task."""
    from lmms_eval.tasks import TaskManager

    doc = loaded["chat"].dataset["test"][0]
    for model, ends, begun in (
        ("llava_vid_flow", " \nOnly give the best option.", ["Best option:("]),
        ("internvl_flow", " \nOnly give the best option.", ["Best option:("]),
        (
            "videollama3_flow",
            "\nAnswer with the option's letter from the given choices directly and only give the "
            "best option.",
            [],
        ),
    ):
        manager = TaskManager(include_defaults=False, model_name=model)
        name = "flowbench_moving_direction"
        user, *assistant = manager.load_task_or_group(name, "chat")[name].doc_to_messages(doc)
        assert user["content"][1]["text"].endswith("(B) Right." + ends)
        assert [message["content"][0]["text"] for message in assistant] == begun


def test_the_host_builds_simple_requests(loaded: dict[str, Any]) -> None:
    task = loaded["simple"]
    task.build_all_requests()
    context, _, doc_to_visual, doc_id, _, split = task.instances[0].args
    assert context.startswith("Question: Which way does the square move?\nOptions:\n(A) Left.")
    assert Path(doc_to_visual(task.dataset[split][doc_id])[0]).is_file()


@pytest.mark.parametrize(
    "answers", [["B", "A", "(B)"], [["B", record(answer="B")], ["A", record()], ["B", record()]]]
)
def test_the_host_scores_both_kinds_of_answers(loaded: dict[str, Any], answers: Any) -> None:
    task = loaded["chat"]
    doc = task.dataset["test"][0]
    scores = [task.process_results(doc, [answer])["accuracy"] for answer in answers]
    assert scores == [1.0, 0.0, 1.0]
    assert task.aggregation()["accuracy"](scores) == pytest.approx(2 / 3)
    assert task.aggregation()["errors"]([0, 1, 1]) == 2
