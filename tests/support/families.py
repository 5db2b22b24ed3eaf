"""The families of the wrappers, and what each brings to be held to what holds for all (tests/test_families.py)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmms_flow.model_wrappers.base import FlowModel
from lmms_flow.model_wrappers.internvl import InternvlFlow
from lmms_flow.model_wrappers.llava_vid import LlavaVidFlow
from lmms_flow.model_wrappers.videollama3 import VideoLlama3Flow
from tests.support.checkpoints import next_video, paper_llava
from tests.support.checkpoints_internvl import internvl_chat, native_internvl
from tests.support.checkpoints_videollama3 import videollama3
from tests.support.wrapped import messages


@dataclass(frozen=True)
class KnownPathway:
    """A pathway of the paper that is found by the checkpoint's name: `flow` on so many layers is the preset."""

    checkpoint: str
    layers: int
    flow: str
    preset: str


@dataclass(frozen=True)
class Family:
    """One kind of checkpoint.

    Args:
        wrapper: the class that runs it.
        make: writes a small one into a folder, four layers deep unless it is told otherwise; None: it is bundled.
        form: how a task with the paper's protocol words its question for it (`tasks/questions.py`).
        pathway: what the paper found for it, if it is one of the paper's.
    """

    wrapper: type[FlowModel]
    make: Callable[..., Any] | None
    form: str = "paper"
    pathway: KnownPathway | None = None

    def load(self, source: Path | str, **model_args: Any) -> FlowModel:
        return self.wrapper(pretrained=str(source), device="cpu", **{"records": "none", **model_args})

    def messages(self, clip: str, **changed: Any) -> list[dict[str, Any]]:
        return messages(clip, self.form, **changed)


FAMILIES = {
    "llava": Family(
        LlavaVidFlow,
        paper_llava,
        pathway=KnownPathway("LLaVA-NeXT-7B-Video-FT", 32, "effective", "effective-llava-next-7b"),
    ),
    "llava_next_video": Family(LlavaVidFlow, next_video),
    "flow_tiny": Family(LlavaVidFlow, None),
    "internvl": Family(
        InternvlFlow,
        internvl_chat,
        pathway=KnownPathway("Mini-InternVL-4B-Video-FT", 32, "effective", "effective-mini-internvl-4b"),
    ),
    "native_internvl": Family(InternvlFlow, native_internvl),
    "videollama3": Family(
        VideoLlama3Flow,
        videollama3,
        form="videollama3",
        pathway=KnownPathway("VideoLLaMA3-7B", 28, "effective_closed", "effective-videollama3-7b-closed"),
    ),
}
