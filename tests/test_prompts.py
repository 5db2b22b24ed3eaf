"""The paper's prompts, character for character: what our tasks write, as each model family is given it."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from lmms_flow.harness.plugin import tasks_folder
from lmms_flow.inputs.video import read_frames
from lmms_flow.model_wrappers.base import FlowModel
from lmms_flow.model_wrappers.internvl import InternvlFlow
from lmms_flow.model_wrappers.llava_vid import LlavaVidFlow
from lmms_flow.model_wrappers.videollama3 import VideoLlama3Flow
from lmms_flow.tasks.questions import doc_to_messages
from tests.checkpoints import paper_llava
from tests.checkpoints_internvl import PHI_TEMPLATE, internvl_chat
from tests.checkpoints_videollama3 import videollama3
from tests.clips import write_clip
from tests.wrapped import question

SYSTEM = (
    "Carefully watch the video and pay attention to the cause and sequence of events, the detail and movement of "
    "objects, and the action and pose of persons. Based on your observations, select the best option that accurately "
    "addresses the question.\n"
)
QUESTION = (
    "Question: Which one of these happened first?\nOptions:\n(A) The person opens a box.\n(B) A man walks, then runs.\n"
    "(C) None of the other"
)
TIMES = ("0.0", "0.3", "0.5", "0.8", "1.1", "1.4", "1.7", "2.0")

PROMPTS: dict[str, tuple[type[FlowModel], Callable[..., Any], str]] = {
    "llava_vid_flow": (
        LlavaVidFlow,
        paper_llava,
        f"{SYSTEM} USER: <image>\n USER: {QUESTION} \nOnly give the best option. ASSISTANT:Best option:(",
    ),
    "internvl_flow": (
        InternvlFlow,
        internvl_chat,
        f"{SYSTEM} <|user|>\n<img><IMG_CONTEXT></img>\n <|user|>\n{QUESTION} \nOnly give the best option. "
        "<|assistant|>\nBest option:(",
    ),
    "videollama3_flow": (
        VideoLlama3Flow,
        videollama3,
        f"<|im_start|>user\n{','.join(f'Time {time}s:<image>' for time in TIMES)}\n{QUESTION}\n"
        "Answer with the option's letter from the given choices directly and only give the best option.<|im_end|>\n"
        "<|im_start|>assistant\n",
    ),
}


class _Tags(yaml.SafeLoader):
    """Reads a task's YAML with its functions left out."""


_Tags.add_multi_constructor("!", lambda loader, suffix, node: None)


def task_messages(model_id: str, document: Any) -> list[dict[str, Any]]:
    """What a task with the paper's protocol hands this model."""
    task = yaml.load((tasks_folder() / "_paper_protocol.yaml").read_text(), _Tags)
    given = task["lmms_eval_specific_kwargs"]
    return doc_to_messages(document, given.get(model_id, given["default"]))


def loaded(model_id: str, folder: Path, **made: Any) -> FlowModel:
    wrapper, make, _ = PROMPTS[model_id]
    make(folder, layers=2, **made)
    return wrapper(pretrained=str(folder), device="cpu", records="none")


@pytest.mark.parametrize("model_id", PROMPTS)
def test_the_papers_prompt(model_id: str, tmp_path: Path) -> None:
    """Read back from the tokens that the model is given, with one placeholder for a frame's or the video's tokens."""
    clip = str(write_clip(tmp_path / "clip.mp4"))
    document = question(
        clip,
        question="Which one of these happened first?",
        candidates=["The person opens a box.", "A man walks, then runs.", "None of the other"],
    )
    model = loaded(model_id, tmp_path / "model")
    text = model.chat.render(task_messages(model_id, document))
    prompt, _ = model.chat.prompt(text, read_frames(clip, 8, sampling=model.sampling))
    expected = PROMPTS[model_id][2]
    frames = ",".join(f"Time {time}s:<image>" for time in TIMES)
    assert text.replace("<image>", frames if model_id == "videollama3_flow" else "<image>") == expected
    ids = [token for token in prompt.input_ids if token != model.chat.tokenizer.bos_token_id]
    token = re.escape(model.chat.video_token)
    spelled = re.sub(f"({token})+", model.chat.video_token, model.chat.tokenizer.decode(ids))
    assert squeezed(spelled) == squeezed(expected)


@pytest.mark.parametrize("model_id", PROMPTS)
def test_a_tasks_system_message_takes_the_sentences_place(model_id: str, tmp_path: Path) -> None:
    system = {"role": "system", "content": [{"type": "text", "text": "Be brief."}]}
    chat = loaded(model_id, tmp_path).chat
    text = chat.render([system, *task_messages(model_id, question("clip.mp4"))])
    begin = "<|im_start|>system\nBe brief.<|im_end|>\n" if model_id == "videollama3_flow" else "Be brief.\n "
    assert text.startswith(begin)
    assert "Carefully" not in text


@pytest.mark.parametrize("model_id", PROMPTS)
def test_a_task_that_begins_no_answer(model_id: str, tmp_path: Path) -> None:
    """A stock task: the prompt ends where the answer is to begin."""
    chat = loaded(model_id, tmp_path).chat
    text = chat.render(task_messages(model_id, question("clip.mp4"))[:1])
    ends = {"llava_vid_flow": " ASSISTANT:", "internvl_flow": " <|assistant|>\n"}
    assert text.endswith(ends.get(model_id, "<|im_end|>\n<|im_start|>assistant\n"))


def test_a_language_models_template_is_not_the_checkpoints(tmp_path: Path) -> None:
    """Phi-3's own writes messages as they are and knows no pictures."""
    chat = loaded("internvl_flow", tmp_path, chat_template=PHI_TEMPLATE).chat
    assert chat.render(task_messages("internvl_flow", question("clip.mp4"))).startswith(SYSTEM)


def squeezed(text: str) -> str:
    """Llama's kin write a space behind every mark and swallow the line break there: told apart by words alone."""
    return " ".join(text.replace("<", " <").replace(">", "> ").split())
