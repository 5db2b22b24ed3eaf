"""Fifty odd questions: prompts and groups of each model family against the paper's rules, written out once more."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from lmms_flow.flow import Flow
from lmms_flow.inputs.groups import find_groups
from lmms_flow.inputs.video import read_frames
from lmms_flow.tasks.longvideobench import rows as longvideobench
from lmms_flow.tasks.questions import Question, doc_to_messages
from lmms_flow.tasks.tvbench import rows as tvbench
from lmms_flow.tasks.videomme import rows as videomme
from tests.support.clips import write_clip
from tests.support.prompts import PROMPTS, SYSTEM, loaded
from tests.support.tasks import TASKS, Rows, read

STEMS = (
    "What happens first?",
    "What happens first",
    "Which is it: the red cup, the blue cup, or neither?",
    "Is (A) or (B) shown?",
    "A. Smith met B. Jones. Who left?",
    "What does the man say: 'Options:'?",
    "Two lines,\none question?",
    "Double  spaces   in   it?",
    " Where is it?",
    "Where is it? ",
    "Where is it?\n",
    "Was passiert zuerst? ÄÖÜ ß é ñ",
    "先に何が起こりますか？",
    "How many 🙂 are there",
    "Answer with care: which one?",
)
OPTIONS = (
    ["The person sits down.", "The person stands up."],
    ["Sit", "Stand"],
    ["A Ball", "a ball", "A BALL"],
    ["red cup", "blue cup", "red cup"],
    ["left ", "right  "],
    ["left\t", "right\t "],
    ["3", "2", "1", "0"],
    ["(A) is right", "(B) is right", "both"],
    ["Before", "After.", "Never!", "Yes?", "No;", "one:"],
    ["it's", '"quoted"', "a, b, and c"],
    ["einen Stuhl", "新しい椅子", "🙂🙂"],
    ["first", "second \n"],
    ["moves  twice", "moves twice"],
)
QUESTIONS = [
    (stem, options, options[place % len(options)])
    for place, (stem, options) in enumerate(
        (STEMS[i % len(STEMS)], OPTIONS[(i * 4 + i // len(OPTIONS)) % len(OPTIONS)]) for i in range(50)
    )
]


FLOW = Flow.load("true_option:last+false_options:last+stem:last")


@dataclass(frozen=True)
class Asked:
    """A prompt's characters around the video, and the paper's needles in what stands behind it."""

    before: str
    after: str
    question: str
    stem: str
    options: list[str]


def lettered(options: list[str]) -> list[tuple[str, str]]:
    return [(chr(ord("A") + place), option) for place, option in enumerate(options)]


def naive(model_id: str, benchmark: str, stem: str, options: list[str]) -> Asked:
    """By the rules of the paper's scripts for each family and benchmark."""
    if model_id == "videollama3_flow":
        asked = f"Question: {stem}\n"
        if benchmark == "tvbench":
            spelled = [f"({letter}) {option}\n" for letter, option in lettered(options)]
            asked += "Options:\n"
            directly = "directly and only give the best option."
        else:
            spelled = [f"{letter}. {option}\n" for letter, option in lettered(options)]
            directly = "directly."
        asked += "".join(spelled)
        tail = f"Answer with the option's letter from the given choices {directly}<|im_end|>\n<|im_start|>assistant\n"
        return Asked("<|im_start|>user\n", "\n" + asked + tail, asked, stem + "\n", spelled)
    marks = "{}. {}" if benchmark == "videomme" else "({}) {}"
    spelled = [marks.format(*pair) for pair in lettered(options)]
    asked = f"Question: {stem}\nOptions:\n" + "".join(option + "\n" for option in spelled)
    begun = "Best option:"
    if benchmark != "videomme":
        asked, begun = asked.rstrip(), "Best option:("
    spelled = [option.rstrip() for option in spelled]
    post = " \nOnly give the best option."
    if model_id == "llava_vid_flow":
        after = f"\n USER: {asked}{post} ASSISTANT:{begun}"
        return Asked(f"{SYSTEM} USER: ", after, asked, stem.strip(), spelled)
    after = f"</img>\n <|user|>\n{asked}{post} <|assistant|>\n{begun}"
    return Asked(f"{SYSTEM} <|user|>\n<img>", after, asked, stem.strip(), spelled)


def document(benchmark: str, stem: str, options: list[str], answer: str) -> Question:
    """The question as the benchmark's rows bring it; the true option is the last one that is the same text."""
    letter = [letter for letter, option in lettered(options) if option == answer][-1]
    if benchmark == "tvbench":
        row: dict[str, Any] = {"video": "v.mp4", "question": stem, "candidates": options, "answer": answer}
        (doc,) = tvbench.process_docs(Rows.of("action_count", row))
    elif benchmark == "videomme":
        marked = [f"{letter}. {option}" for letter, option in lettered(options)]
        row = {"videoID": "v", "question_id": "1", "question": stem, "options": marked, "answer": letter}
        (doc,) = videomme.process_docs([row | {"task_type": "t"}])
    else:
        row = {
            "id": "1",
            "question": stem,
            "video_path": "v.mp4",
            "question_category": "O2E",
            "duration": 9.5,
        }
        row |= {f"option{place}": option for place, option in enumerate(options)}
        row |= {"correct_choice": "ABCDEFGHIJ".index(letter)}
        (doc,) = longvideobench.process_docs([row])
    assert doc["answer_letter"] == letter
    return doc


def places(text: str, asked: Asked, begin: int) -> dict[str, list[tuple[int, int]]]:
    """Where the needles stand in the prompt, each behind the one before it; the question's is at `begin` or later."""
    start = text.index(asked.question, begin)
    stem = text.index(asked.stem, start + len("Question:"))
    found = {
        "question": [(start, start + len(asked.question))],
        "stem": [(stem, stem + len(asked.stem))],
        "each": [],
    }
    behind = stem + len(asked.stem.rstrip("\n"))
    if "Options:\n" in text[behind:]:
        behind = text.rindex("Options:\n", behind)
    for option in asked.options:
        behind = text.index(option, behind)
        found["each"].append((behind, behind + len(option)))
        behind += 1
    found["options"] = [(found["each"][0][0], found["each"][-1][1])]
    return found


def tokens_of(offsets: Any, video: range, span: tuple[int, int]) -> range:
    """From the first token that passes the needle's start, to the last one that starts before its end."""
    behind = range(video.stop, len(offsets))
    first = next(token for token in behind if offsets[token][1] > span[0])
    last = max(token for token in behind if offsets[token][0] < span[1])
    return range(first, last + 1)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_clip(tmp_path_factory.mktemp("clip") / "clip.mp4"))


@pytest.fixture(scope="module", params=list(PROMPTS))
def chat(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Any, str]:
    model = loaded(request.param, tmp_path_factory.mktemp(request.param))
    return request.param, model.chat, model.sampling


@pytest.mark.parametrize("benchmark", ["tvbench", "videomme", "longvideobench"])
def test_fifty_odd_questions(chat: tuple[str, Any, str], benchmark: str, clip: str) -> None:
    model_id, talk, sampling = chat
    file = "action_count" if benchmark == "tvbench" else benchmark
    given = read(TASKS / benchmark / f"{file}.yaml")["lmms_eval_specific_kwargs"]
    frames = read_frames(clip, 8, sampling=sampling)
    most = 5 if benchmark == "longvideobench" else 10
    asked_of = [question for question in QUESTIONS if len(question[1]) <= most]
    assert len(asked_of) > 30
    for stem, options, answer in asked_of:
        doc = document(benchmark, stem, options, answer)
        asked = naive(model_id, benchmark, stem, options)
        said = doc_to_messages(doc, given.get(model_id, given["default"]))
        text = talk.render(said)
        assert text == asked.before + talk.video_token + asked.after
        prompt, _ = talk.prompt(text, frames)
        groups = find_groups(prompt, said[0]["content"][1]["text"], doc, FLOW).layout.groups
        found = places(text, asked, len(asked.before) + len(talk.video_token))
        true = "ABCDEFGHIJ".index(doc["answer_letter"])
        false = [span for place, span in enumerate(found["each"]) if place != true]
        needles = {**found, "true_option": [found["each"][true]], "false_options": false}
        del needles["each"]
        for name, spans in needles.items():
            expected = [tokens_of(prompt.offsets, prompt.video, span) for span in spans]
            assert joined(groups[name]) == joined(expected), (name, stem, options)


def joined(ranges: Any) -> list[int]:
    return [token for part in ranges for token in part]
