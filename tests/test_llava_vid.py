"""`llava_vid_flow` without a flow answers as the plain model driven by hand, token for token."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest
import transformers
from lmms_flow.model_wrappers.llava_vid import LlavaVidFlow
from PIL import Image

from lmms_flow.harness.journal import read_journal
from tests.by_hand import greedy_tokens, load_paper_model
from tests.checkpoints import image_base, next_video, paper_llava
from tests.clips import write_clip

# The paper's prompt, character for character, around a stock task's text.
SYSTEM = (
    "Carefully watch the video and pay attention to the cause and sequence of events, the detail and movement of "
    "objects, and the action and pose of persons. Based on your observations, select the best option that accurately "
    "addresses the question."
)
TEXT = "Where does the square move to?\nA. Left\nB. Right\nAnswer with the option letter only."
PAPER_PROMPT = f"{SYSTEM}\n USER: <image>\n USER: {TEXT} ASSISTANT:"
OWN_PROMPT = f"USER: <image>\n{TEXT} ASSISTANT:"
GEN_KWARGS = {"max_new_tokens": 8, "temperature": 0, "do_sample": False, "until": ["\n\n\n\n"]}


@pytest.fixture
def clip(tmp_path: Path) -> str:
    return str(write_clip(tmp_path / "clip.mp4", frames=24, size=(64, 96), seed=3))


def ask(folder: Path, clip: str, records: Path, **model_args: Any) -> tuple[str, tuple[int, ...]]:
    """The wrapper's answer to one stock question, and the frames that it says it saw."""
    model = LlavaVidFlow(pretrained=str(folder), device="cpu", records=str(records), **model_args)
    content = [{"type": "video", "url": clip}, {"type": "text", "text": TEXT}]
    model.task_dict = {"stock": {"test": [{"question": "?"}]}}
    args = ("", lambda doc: [{"role": "user", "content": content}], GEN_KWARGS, 0, "stock", "test")
    answers = model.generate_until([SimpleNamespace(args=args, metadata={})])
    (record,) = read_journal(records)
    assert record.status == "ok", record.reason
    return answers[0], record.frames


def midpoints(clip: str) -> tuple[tuple[int, ...], list[Image.Image]]:
    """The middle frame of each of eight segments, as the paper's reader picks them, decoded with PyAV."""
    with av.open(clip) as container:
        frames = [frame.to_image() for frame in container.decode(video=0)]
    segment = (len(frames) - 1) / 8
    indices = tuple(int(segment / 2 + round(segment * i)) for i in range(8))
    return indices, [frames[index] for index in indices]


def by_hand(folder: Path, prompt: str, pictures: Sequence[Image.Image]) -> str:
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    pixels = transformers.CLIPImageProcessor(
        size={"shortest_edge": 56}, crop_size={"height": 56, "width": 56}
    )(list(pictures), return_tensors="pt")["pixel_values"]
    ids = tokenizer(prompt, return_tensors="pt").input_ids[0]
    return tokenizer.decode(greedy_tokens(load_paper_model(folder), ids, pixels, 8), skip_special_tokens=True)


@pytest.mark.parametrize(
    ("files", "prompt"),
    [
        ({}, PAPER_PROMPT),
        ({"processor": False, "shards": 3}, PAPER_PROMPT),
        ({"chat_template": "tokenizer_config.json"}, OWN_PROMPT),
        ({"chat_template": "chat_template.jinja"}, OWN_PROMPT),
        ({"chat_template": "chat_template.json"}, OWN_PROMPT),
    ],
    ids=[
        "processor",
        "tokenizer only",
        "template of the tokenizer",
        "template file",
        "template of a processor",
    ],
)
def test_the_papers_checkpoint(files: dict[str, Any], prompt: str, clip: str, tmp_path: Path) -> None:
    paper_llava(tmp_path / "model", **files)
    answer, seen = ask(tmp_path / "model", clip, tmp_path / "records")
    indices, pictures = midpoints(clip)
    assert seen == indices
    assert answer == by_hand(tmp_path / "model", prompt, pictures).strip()


def test_its_image_base_runs_through_the_same_path(clip: str, tmp_path: Path) -> None:
    """Under the paper's prompt too, not its own template: nothing but the weights may differ."""
    image_base(tmp_path / "model")
    answer, _ = ask(tmp_path / "model", clip, tmp_path / "records")
    assert answer == by_hand(tmp_path / "model", PAPER_PROMPT, midpoints(clip)[1]).strip()


def test_llava_next_video(clip: str, tmp_path: Path) -> None:
    next_video(tmp_path / "model")
    answer, _ = ask(tmp_path / "model", clip, tmp_path / "records")
    processor = transformers.AutoProcessor.from_pretrained(tmp_path / "model")
    model = transformers.LlavaNextVideoForConditionalGeneration.from_pretrained(tmp_path / "model").eval()
    pixels = np.stack([np.asarray(picture) for picture in midpoints(clip)[1]])
    prompt = f"USER: <video>\n{TEXT} ASSISTANT:"
    inputs = processor(text=prompt, videos=[pixels], do_sample_frames=False, return_tensors="pt")
    whole = model.generate(**inputs, max_new_tokens=8, do_sample=False)
    plain = processor.tokenizer.decode(whole[0, inputs.input_ids.shape[1] :], skip_special_tokens=True)
    assert answer == plain.strip()
