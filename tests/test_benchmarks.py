"""Five public benchmarks in the paper's protocol: what is asked of which clip, word for word."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from lmms_flow.errors import SampleError
from lmms_flow.tasks import questions
from lmms_flow.tasks.longvideobench import rows as longvideobench
from lmms_flow.tasks.mvbench import rows as mvbench
from lmms_flow.tasks.questions import FORMS, Question, doc_to_messages, doc_to_text, doc_to_visual
from lmms_flow.tasks.shared import clips_folder
from lmms_flow.tasks.tomato import rows as tomato
from lmms_flow.tasks.tvbench import rows as tvbench
from lmms_flow.tasks.videomme import rows as videomme
from tests.support.benchmarks_data import MVBENCH_FOLDERS
from tests.support.tasks import TASKS, Rows, read
from tests.support.tvbench import QUESTIONS as TVBENCH_QUESTIONS


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    return tmp_path


def touch(path: Path) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return str(path)


# Rows


def tvbench_row(**changes: Any) -> dict[str, Any]:
    row = {"video": "v.mp4", "question": "Which way?", "candidates": ["Up", "Down"], "answer": "Down"}
    return {**row, **changes}


@pytest.mark.smoke
def test_tvbench(home: Path) -> None:
    (doc,) = tvbench.process_docs(Rows.of("moving_direction", tvbench_row(start=1.0, end=2.0)))
    assert doc == {
        "id": "moving_direction-0",
        "video": str(home / "tvbench/video/moving_direction/v.mp4"),
        "start": None,  # the paper cuts two sub-tasks' clips, and this is neither
        "end": None,
        "question": "Which way?",
        "candidates": ["Up", "Down"],
        "answer_letter": "B",
        "family": "moving_direction",
        "pair": None,
    }


@pytest.mark.parametrize("sub_task", tvbench.CLIPPED)
def test_tvbench_clips_have_bounds_in_two_sub_tasks(home: Path, sub_task: str) -> None:
    (doc,) = tvbench.process_docs(Rows.of(sub_task, tvbench_row(start=1.5, end=4)))
    assert (doc["start"], doc["end"]) == (1.5, 4)


@pytest.mark.parametrize(
    "place",
    ["video/action_count/v.mp4", "action_count/v.mp4", "videos/v.mp4", "v.mp4", "video/object_count/v.mp4"],
)
def test_tvbench_clips_are_found_where_lmms_eval_finds_them(home: Path, place: str) -> None:
    clip = touch(home / "tvbench" / place)
    (doc,) = tvbench.process_docs(Rows.of("action_count", tvbench_row()))
    assert doc["video"] == clip


def test_a_clip_of_the_same_name_in_another_sub_task_is_another_clip(home: Path) -> None:
    touch(home / "tvbench/video/action_antonym/v.mp4")
    own = touch(home / "tvbench/video/object_count/v.mp4")
    (doc,) = tvbench.process_docs(Rows.of("object_count", tvbench_row()))
    assert doc["video"] == own


def test_mvbench_clips_are_cut_already(home: Path) -> None:
    clip = touch(home / "mvbench_video/star/Charades_segment/v.mp4")
    (doc,) = mvbench.process_docs(Rows.of("action_sequence", tvbench_row(start=7.0, end=9.0)))
    assert (doc["video"], doc["start"], doc["end"]) == (clip, None, None)
    (doc,) = mvbench.process_docs(Rows.of("fine_grained_pose", tvbench_row()))
    assert doc["video"] == str(home / "mvbench_video/nturgbd_convert/v.mp4")
    clip = touch(home / "mvbench_video/data0613/nturgbd_convert/v.mp4")
    (doc,) = mvbench.process_docs(Rows.of("fine_grained_pose", tvbench_row()))
    assert doc["video"] == clip


def test_tomato(home: Path) -> None:
    row = {"id": "count-7", "question": "How often?", "options": ["once", "twice", "once"], "answer": 2}
    more = {"video_path": "videos/human/a.mp4", "reason_type": "count", "demonstration_type": "human"}
    (doc,) = tomato.process_docs([row | more])
    assert (doc["id"], doc["answer_letter"], doc["family"]) == ("count-7", "C", "count")
    assert doc["video"] == str(home / "TOMATO/videos/human/a.mp4")


def test_videomme(home: Path) -> None:
    row = {
        "videoID": "xyz",
        "question_id": "001-2",
        "question": "Who is it?",
        "options": ["A. B. Jones.", "B. A. Smith.", "C.Nobody.", "D. All: A. to C."],
        "answer": "D",
        "task_type": "Action Recognition",
    }
    (doc,) = videomme.process_docs([row])
    assert doc["candidates"] == ["B. Jones.", "A. Smith.", "Nobody.", "All: A. to C."]
    assert doc["options"] == row["options"]  # asked as they come
    assert (doc["id"], doc["answer_letter"], doc["family"]) == ("001-2", "D", "Action Recognition")
    assert doc["video"] == str(home / "videomme/data/xyz.mp4")
    clip = touch(home / "videomme/data/xyz.mkv")
    assert videomme.process_docs([row])[0]["video"] == clip


@pytest.mark.parametrize(("right", "letter"), [(0, "A"), (2, "C")])
def test_longvideobench(home: Path, right: int, letter: str) -> None:
    row = {
        "id": "v_0",
        "question": "When\nthe screen is bright?",
        "option0": "a",
        "option1": "b",
        "option2": "c",
        "option3": "N/A",
        "option4": "N/A",
        "correct_choice": right,
        "video_path": "v.mp4",
        "question_category": "O2E",
    }
    (doc,) = longvideobench.process_docs([row])
    assert (doc["candidates"], doc["answer_letter"], doc["family"]) == (["a", "b", "c"], letter, "O2E")
    assert "duration" not in doc
    assert longvideobench.process_docs([row | {"duration": 8.5}])[0]["duration"] == 8.5
    assert doc["video"] == str(home / "datasets/longvideobench/videos/v.mp4")
    (doc,) = longvideobench.process_docs([row | {"correct_choice": 3}])
    assert (doc["id"], "the answer '3' is not one of ABC" in doc["problem"]) == ("v_0", True)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"answer": "Sideways"}, "the answer 'Sideways' is not one of AB"),
        ({"answer": ""}, "the answer '' is not one of AB"),
        ({"answer": None}, "the answer 'None' is not one of AB"),
        ({"candidates": []}, "a question needs 2 to 10 options, this one has 0"),
        ({"candidates": None}, "TypeError"),
        ({"candidates": [1, 2], "answer": 2}, "int"),
        ({"question": None}, "its question is None, not text"),
        ({"video": None}, "TypeError"),
        (None, "KeyError: 'candidates'"),
    ],
)
def test_a_row_that_is_broken_is_one_question_that_says_so(
    home: Path, changes: dict[str, Any] | None, says: str
) -> None:
    broken = {"video": "v.mp4", "question": "?"} if changes is None else tvbench_row(**changes)
    for rows in ([tvbench_row(), broken], [broken, tvbench_row()]):
        good, bad = sorted(
            tvbench.process_docs(Rows.of("action_count", *rows)), key=lambda doc: bool(doc["problem"])
        )
        assert says in bad["problem"]
        assert "\n" not in bad["problem"]
        assert (good["problem"], good["candidates"], good["family"]) == (None, ["Up", "Down"], "action_count")
        assert bad["family"] == "action_count"
        assert doc_to_text(bad) == "", "while requests are listed"
        for ask in (doc_to_messages, doc_to_visual):
            with pytest.raises(SampleError, match=re.escape(bad["problem"])):
                ask(bad)


def test_the_true_option_is_the_last_one_of_the_very_same_text() -> None:
    """As the paper's code finds it."""

    def read_row(answer: str, candidates: list[str]) -> Any:
        return tvbench.process_docs(
            Rows.of("action_count", tvbench_row(candidates=candidates, answer=answer))
        )[0]

    def letter(answer: str, candidates: list[str]) -> str:
        return str(read_row(answer, candidates)["answer_letter"])

    assert letter("up", ["up", "down", "up"]) == "C"
    assert letter("A Ball", ["a ball", "A Ball", "A BALL"]) == "B"
    assert letter("up ", ["up", "up ", "up  "]) == "B"
    for answer, candidates in (("A BALL", ["a ball", "A Ball"]), ("up ", ["up", "down"]), ("A", ["B", "C"])):
        assert "is not one of AB" in read_row(answer, candidates)["problem"]


def test_the_folder_of_clips_is_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HOME", "home")
    assert clips_folder("tvbench") == tmp_path / "home/tvbench"
    monkeypatch.setenv("HF_HOME", "~/home")
    assert clips_folder("tvbench") == Path.home() / "home/tvbench"
    monkeypatch.delenv("HF_HOME")
    assert clips_folder("tvbench") == Path.home() / ".cache/huggingface/tvbench"


# Prompts

DOC = Question(
    id="1",
    video="/v.mp4",
    start=None,
    end=None,
    question="Which way?",
    candidates=["Up", "Down"],
    answer_letter="B",
    family="f",
    pair=None,
)


@pytest.mark.parametrize(
    ("form", "text", "begun"),
    [
        ("paper", "Options:\n(A) Up\n(B) Down \nOnly give the best option.", "Best option:("),
        ("paper_dotted", "Options:\nA. Up\nB. Down\n \nOnly give the best option.", "Best option:"),
        (
            "videollama3",
            "Options:\n(A) Up\n(B) Down\nAnswer with the option's letter from the given choices directly and only "
            "give the best option.",
            "",
        ),
        (
            "videollama3_dotted",
            "A. Up\nB. Down\nAnswer with the option's letter from the given choices directly.",
            "",
        ),
    ],
)
def test_forms_word_for_word(form: str, text: str, begun: str) -> None:
    text = f"Question: Which way?\n{text}"
    user = {"role": "user", "content": [{"type": "video", "url": "/v.mp4"}, {"type": "text", "text": text}]}
    assistant = {"role": "assistant", "content": [{"type": "text", "text": begun}]}
    assert questions.doc_to_text(DOC, {"form": form}) == text
    assert questions.doc_to_messages(DOC, {"form": form}) == ([user, assistant] if begun else [user])


def test_white_space_behind_the_last_option() -> None:
    """Left out by the paper for LLaVA and InternVL, but for Video-MME; kept for VideoLLaMA3."""
    doc: Any = {**DOC, "candidates": ["Up ", "Down \n"]}
    asked = {form: questions.doc_to_text(doc, {"form": form}) for form in FORMS}
    assert asked["paper"].endswith("(A) Up \n(B) Down \nOnly give the best option.")
    assert asked["paper_dotted"].endswith("A. Up \nB. Down \n\n \nOnly give the best option.")
    assert "(A) Up \n(B) Down \n\nAnswer with" in asked["videollama3"]
    marked: Any = {**doc, "options": ["A. Up", "B.Down"]}
    assert "Options:\nA. Up\nB.Down\n \nOnly" in questions.doc_to_text(marked, {"form": "paper_dotted"})


def test_a_rows_duration_travels_where_frames_are_taken_by_the_second() -> None:
    doc: Any = {**DOC, "duration": 8.5}
    for sampling, told in (("segment_starts", {"duration": 8.5}), ("linspace", {})):
        video = questions.doc_to_messages(doc, {"form": "paper", "sampling": sampling})[0]["content"][0]
        assert video == {"type": "video", "url": "/v.mp4", "sampling": sampling, **told}


def test_how_frames_are_taken_travels_with_the_video() -> None:
    """And the host's own reader of messages takes it too."""
    from lmms_eval.protocol import ChatMessages

    given = {"form": "paper", "sampling": "segment_starts", "num_frames": 24}
    messages = questions.doc_to_messages({**DOC, "start": 1.0, "end": 2.5}, given)
    assert messages[0]["content"][0] == {
        "type": "video",
        "url": "/v.mp4",
        "start_time": 1.0,
        "end_time": 2.5,
        "sampling": "segment_starts",
        "num_frames": 24,
    }
    assert ChatMessages(messages=messages).extract_media()[1] == ["/v.mp4"]


@pytest.mark.parametrize(
    ("task", "taken"),
    [
        ("tvbench/action_count", {}),
        ("videomme/videomme", {}),
        ("longvideobench/longvideobench", {"sampling": "segment_starts"}),
        ("longvideobench/longvideobench_24", {"sampling": "segment_starts", "num_frames": 24}),
    ],
)
def test_how_each_task_takes_frames(task: str, taken: dict[str, Any]) -> None:
    """VideoLLaMA3 takes them in its own way, and as many."""
    given = read(TASKS / f"{task}.yaml")["lmms_eval_specific_kwargs"]
    for model, expected in (
        ("default", taken),
        (VIDEOLLAMA, {k: v for k, v in taken.items() if k == "num_frames"}),
    ):
        video = questions.doc_to_messages(DOC, given[model])[0]["content"][0]
        assert video == {"type": "video", "url": "/v.mp4", **expected}


def test_a_form_that_there_is_not_is_named() -> None:
    with pytest.raises(ValueError, match="form 'videolama3'; did you mean 'videollama3'"):
        questions.doc_to_text(DOC, {"form": "videolama3"})


# Tasks

LLAVA, VIDEOLLAMA = "llava_vid_flow", "videollama3_flow"
FLOW_TASKS = ["tvbench_flow", "mvbench_flow", "tomato_flow", "videomme_flow", "longvideobench_flow"]


def all_tasks() -> dict[str, dict[str, Any]]:
    files = [
        p
        for name in ("tvbench", "tomato", "videomme", "longvideobench", "mvbench")
        for p in (TASKS / name).glob("*.yaml")
    ]
    return {path.stem: read(path) for path in files if not path.name.startswith("_")}


def stock(folder: str, file: str) -> dict[str, Any]:
    import lmms_eval

    return read(Path(lmms_eval.__file__).parent / "tasks" / folder / file)


def test_every_sub_task_of_the_stock_group_has_one_of_ours() -> None:
    for name, sub_tasks in (("tvbench", TVBENCH_QUESTIONS), ("mvbench", MVBENCH_FOLDERS)):
        ours = read(TASKS / name / f"{name}.yaml")
        assert ours["group"] == f"{name}_flow"
        assert ours["task"] == [
            task.replace(f"{name}_", f"{name}_flow_") for task in stock(name, f"{name}.yaml")["task"]
        ]
        assert set(ours["task"]) == {f"{name}_flow_{sub_task}" for sub_task in sub_tasks}
        for sub_task in sub_tasks:
            config = read(TASKS / name / f"{sub_task}.yaml")
            assert (config["task"], config["dataset_name"]) == (f"{name}_flow_{sub_task}", sub_task)


@pytest.mark.parametrize(
    ("ours", "folder", "theirs"),
    [
        ("tvbench/action_count.yaml", "tvbench", "tvbench_action_count.yaml"),
        ("mvbench/action_count.yaml", "mvbench", "mvbench_action_count.yaml"),
        ("tomato/tomato.yaml", "tomato", "tomato.yaml"),
        ("videomme/videomme.yaml", "videomme", "videomme.yaml"),
        ("longvideobench/longvideobench.yaml", "longvideobench", "longvideobench_val_v.yaml"),
        ("longvideobench/longvideobench_24.yaml", "longvideobench", "longvideobench_val_v.yaml"),
    ],
)
def test_the_data_are_those_of_the_stock_task(ours: str, folder: str, theirs: str) -> None:
    own, others = read(TASKS / ours), stock(folder, theirs)
    for key in ("dataset_path", "dataset_name", "test_split"):
        assert own.get(key) == others.get(key)
    given = {key: value for key, value in others["dataset_kwargs"].items() if value is not False}
    assert {key: value for key, value in own["dataset_kwargs"].items() if value is not False} == given


def test_every_task_has_the_papers_protocol() -> None:
    checked = 0
    for name, config in all_tasks().items():
        if "group" in config:
            continue
        if "class" in config:  # made of another task
            continue
        checked += 1
        metadata = config["metadata"]
        if metadata["prompt_version"] == "open-1":  # open questions, tests/test_open_questions.py
            assert (metadata["protocol"], metadata["lmms_flow"]) == ("paper", True)
            continue
        assert (metadata["protocol"], metadata["lmms_flow"], metadata["prompt_version"]) == (
            "paper",
            True,
            "paper-1",
        )
        assert ("missing_clips" in metadata) == (
            config["dataset_path"].split("/")[1] in ("TVBench", "MVBench")
        ), name
        for model in ("default", VIDEOLLAMA):
            assert config["lmms_eval_specific_kwargs"][model]["form"] in FORMS
        tokens = config["model_specific_generation_kwargs"]
        assert all(tokens[model] == {"max_new_tokens": 1} for model in (LLAVA, "internvl_flow", VIDEOLLAMA))
    assert checked > 20
