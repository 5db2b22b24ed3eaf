"""Open questions: rows as documents, prompts, scoring, and the flow of the words of an answer up to the page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import lmms_flow
from lmms_flow.assets import flowbench_dir
from lmms_flow.errors import FlowError, SampleError
from lmms_flow.flow.trace_settings import OPEN_ENDED, TraceSettings
from lmms_flow.inputs.groups import PromptGroups
from lmms_flow.records.arrays import place_of, write_arrays
from lmms_flow.report.answer_words import read_words
from lmms_flow.report.page.building import report
from lmms_flow.report.page.options import Options
from lmms_flow.report.page.word_section import word_section
from lmms_flow.report.traces import read_traces
from lmms_flow.runner.tracing import Tracer, wanted
from lmms_flow.tasks import open_questions
from lmms_flow.tasks.tvbench import open_rows
from lmms_flow.tasks.vcgbench import rows as vcgbench
from lmms_flow.trace.answers import word_flows, words_of
from tests.support.lmms_logs import record, write_lines, write_results


class Rows(list[dict[str, Any]]):
    """A split of a data set, as lmms-eval hands it over."""

    config_name = "moving_direction"


MOVES = {
    "video": "v.mp4",
    "question": "What direction is the cyan sphere moving within the video?",
    "candidates": ["Up and to the left.", "Down and to the right."],
    "answer": "Up and to the left.",
}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    return tmp_path


def test_a_row_of_tvbench_is_asked_without_its_options(home: Path) -> None:
    clip = home / "tvbench" / "video" / "moving_direction" / "v.mp4"
    clip.parent.mkdir(parents=True)
    clip.write_bytes(b"x")
    lost = MOVES | {"question": "Where does it go?"}
    doc, broken = open_rows.process_docs(Rows([MOVES, lost]))
    assert doc["video"] == str(clip)
    assert (doc["answer"], doc["begun"]) == ("Up and to the left.", "\nThe cyan sphere moves to the")
    assert "does not say which object moves" in broken["problem"]
    given = {"label": "Question: ", "system": "Answer concisely."}
    system, user, answer = open_questions.doc_to_messages(doc, given)
    assert system["content"] == [{"type": "text", "text": "Answer concisely."}]
    assert [part["type"] for part in user["content"]] == ["video", "text"]
    assert user["content"][1]["text"] == f"Question: {MOVES['question']}"
    assert answer == {
        "role": "assistant",
        "content": [{"type": "text", "text": "\nThe cyan sphere moves to the"}],
    }
    with pytest.raises(SampleError, match="which object moves"):
        open_questions.doc_to_messages(broken, given)
    assert open_questions.doc_to_text(broken) == ""
    assert open_questions.doc_to_target(doc) == "Up and to the left."


@pytest.mark.parametrize(
    ("question", "named"),
    [
        ("What direction is the cyan sphere moving within the video?", "cyan sphere"),
        ("In which direction does the red metal cube move?", "red metal cube"),
        ("What direction does the square move in?", "square"),
    ],
)
def test_the_object_that_moves_is_named_as_the_question_names_it(question: str, named: str) -> None:
    assert open_rows.begun("moving_direction", question) == f"\nThe {named} moves to the"


def test_the_first_token_is_right_if_the_expected_words_begin_with_it(home: Path) -> None:
    (doc,) = open_rows.process_docs(Rows([MOVES]))
    for answer, right in (("Up", 1.0), (" up", 1.0), ("U", 1.0), ("Down", 0.0), ("", 0.0), ("left", 0.0)):
        assert open_questions.process_results(doc, [answer])["accuracy"] == right
    told = record(0, True, "none", first_token=" up")
    assert open_questions.process_results(doc, ["", json.dumps(told)])["accuracy"] == 1.0
    failed = record(0, True, "none", status="error", reason="no video")
    scores = open_questions.process_results(doc, ["", json.dumps(failed)])
    assert (scores["errors"], "accuracy" in scores) == (1, False)


def test_a_temporal_question_of_vcgbench_is_answered_freely(home: Path) -> None:
    folder = home / "videochatgpt" / "Test_Videos"
    folder.mkdir(parents=True)
    (folder / "v_2.mkv").write_bytes(b"x")
    row = {"question": "What happens at the end?", "answer": "She waves.", "video_name": "v_1"}
    there, missing, empty = vcgbench.process_docs(
        [row | {"video_name": "v_2"}, row, row | {"answer": " ", "video_name": "v_2"}]
    )
    assert there["video"] == str(folder / "v_2.mkv")
    assert missing["video"] == str(folder / "v_1.mp4")
    assert "its answer is empty" in empty["problem"]
    (user,) = open_questions.doc_to_messages(there)
    assert user["content"][1] == {"type": "text", "text": "What happens at the end?"}
    assert "accuracy" not in open_questions.process_results(there, ["She waves."])


def test_the_kind_stands_alone_and_says_what_it_asks() -> None:
    settings = TraceSettings.from_mapping({"kinds": "words", "words": ["Opens", "closes"], "anchors": "2"})
    assert (settings.anchors, settings.words, settings.knockouts) == (
        2,
        ("opens", "closes"),
        OPEN_ENDED,
    )
    assert TraceSettings.from_text(settings.to_text()) == settings
    assert settings.groups == {"video", "question", "answer", "last"}
    assert "words" not in TraceSettings().kinds
    with pytest.raises(FlowError, match="stands alone"):
        TraceSettings.from_mapping(["map", "words"])
    with pytest.raises(FlowError, match="anchors are a whole number from 1, not 0"):
        TraceSettings.from_mapping({"kinds": "words", "anchors": 0})


def test_words_of_an_answer_from_the_model_to_the_page(tmp_path: Path) -> None:
    """What the runner keeps is what the public function gives, and the curve is its mean over answers."""
    model = lmms_flow.load("flow-tiny", device="cpu")
    row = json.loads((flowbench_dir() / "moving_direction.jsonl").read_text().splitlines()[0])
    prompt = model.prompt(str(flowbench_dir() / row["video"]), row["question"])
    with torch.inference_mode():
        out = model.generate(**prompt.inputs, max_new_tokens=8, min_new_tokens=8, do_sample=False)
        tokens = out[0, prompt.layout.num_tokens :].tolist()
        settings = TraceSettings(("words",), layers="3-5", anchors=2)
        assert "answer" in wanted(settings).groups
        groups = PromptGroups(prompt.layout, prompt.rule, prompt.letters)
        arrays = Tracer(model, settings, prompt.inputs, groups, None, tokens).read()
        anchors = words_of(model.tokenizer, tokens)[:2]
        flows = word_flows(model, prompt.inputs, prompt.layout, tokens, anchors, window=3, layers=(3, 4, 5))
    assert len(anchors) == 2
    assert len(flows) == 1, "the model would end behind its first word: the second was forced and has no flow"
    assert arrays.about["anchors"] == [[each.anchor.place, each.anchor.word] for each in flows]
    assert arrays.values["words.probability"].shape == (1, len(OPEN_ENDED), 3)
    for place, flow in enumerate(flows):
        np.testing.assert_allclose(
            arrays.values["words.probability"][place], flow.probabilities.numpy(), rtol=1e-5, atol=1e-7
        )
    folder, task = tmp_path / "out", "vcgbench_flow_words"
    file = place_of(task, "key")
    write_arrays(tmp_path / "records", file, arrays, "part")
    told = {"base": "vcgbench_flow_temporal", "task": task, "trace": settings.to_text(), "arrays": file}
    logged = {"doc_id": 0, "target": "", "record": record(0, True, "none", shapes=arrays.shapes, **told)}
    write_lines(folder / f"20260101_000000_samples_{task}.jsonl", [logged])
    traced = read_traces(folder, [tmp_path / "records"])
    (found,) = read_words(folder, [tmp_path / "records"])
    curve = found.curve("video:question", 1)
    expected = flows[0].relative_change[0].numpy()
    assert curve.layers == (3, 4, 5)
    np.testing.assert_allclose(curve.mean, expected, rtol=1e-3, atol=1e-4)
    section = word_section(traced, 0, ())
    assert section is not None
    assert [len(block.pictures) for block in section.blocks] == [1]
    write_results(folder, f"pretrained=tiny,records={tmp_path / 'records'}", {})
    page = report([folder], tmp_path / "report.html", Options(alone=True))
    assert [each.name for each in page.sections] == ["ran", "words"], (
        "nothing is scored, and nothing needs be"
    )
    assert "Words of the answer" in (tmp_path / "report.html").read_text()
    with pytest.raises(FlowError, match="there is no word 2"):
        found.curve("video:question", 2)
    with pytest.raises(FlowError, match="did you mean 'video:answer'"):
        found.curve("video:anser", 1)
