"""The paper's prompts of each family, and a loaded model of each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from lmms_flow.model_wrappers.base import FlowModel
from lmms_flow.model_wrappers.internvl import InternvlFlow
from lmms_flow.model_wrappers.llava_vid import LlavaVidFlow
from lmms_flow.model_wrappers.videollama3 import VideoLlama3Flow
from tests.support.checkpoints import paper_llava
from tests.support.checkpoints_internvl import internvl_chat
from tests.support.checkpoints_videollama3 import videollama3

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


def loaded(model_id: str, folder: Path, **made: Any) -> FlowModel:
    wrapper, make, _ = PROMPTS[model_id]
    make(folder, layers=2, **made)
    return wrapper(pretrained=str(folder), device="cpu", records="none")
