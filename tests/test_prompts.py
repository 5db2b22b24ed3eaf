"""The paper's prompts, character for character: what our tasks write, as each model family is given it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from lmms_flow.harness.plugin import tasks_folder
from lmms_flow.inputs.video import read_frames
from lmms_flow.tasks.questions import doc_to_messages
from tests.support.checkpoints_internvl import PHI_TEMPLATE
from tests.support.clips import write_clip
from tests.support.prompts import PROMPTS, SYSTEM, TIMES, loaded
from tests.support.wrapped import question


class _Tags(yaml.SafeLoader):
    """Reads a task's YAML with its functions left out."""


_Tags.add_multi_constructor("!", lambda loader, suffix, node: None)


def task_messages(model_id: str, document: Any) -> list[dict[str, Any]]:
    """What a task with the paper's protocol hands this model."""
    task = yaml.load((tasks_folder() / "_paper_protocol.yaml").read_text(), _Tags)
    given = task["lmms_eval_specific_kwargs"]
    return doc_to_messages(document, given.get(model_id, given["default"]))


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


@pytest.mark.parametrize(
    ("model_id", "fit"), [("llava_vid_flow", "crop"), ("internvl_flow", "crop"), ("videollama3_flow", "")]
)
def test_a_chat_says_how_a_frame_becomes_a_square(model_id: str, fit: str, tmp_path: Path) -> None:
    assert loaded(model_id, tmp_path).chat.fit == fit
