"""What the plug-in and the tasks that it makes both go by: our models' names, and the task manager of this run."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

MODELS = {
    "llava_vid_flow": "lmms_flow.model_wrappers.llava_vid.LlavaVidFlow",
    "internvl_flow": "lmms_flow.model_wrappers.internvl.InternvlFlow",
    "videollama3_flow": "lmms_flow.model_wrappers.videollama3.VideoLlama3Flow",
    "qwen2_5_vl_flow": "lmms_flow.model_wrappers.hf_video.Qwen25VlFlow",
    "qwen3_vl_flow": "lmms_flow.model_wrappers.hf_video.Qwen3VlFlow",
    "llava_onevision_flow": "lmms_flow.model_wrappers.hf_video.LlavaOnevisionFlow",
    "smolvlm_flow": "lmms_flow.model_wrappers.hf_video.SmolVlmFlow",
    "hf_video_flow": "lmms_flow.model_wrappers.hf_video.HfVideoFlow",
}

_task_manager: Callable[[], Any] = lambda: None  # noqa: E731  (a weak reference, or this before there is one)


def task_manager() -> Any:
    """The host's task manager of this run, or None where there is none (any more)."""
    return _task_manager()


def remember_task_manager(manager: Any) -> None:
    """Where there are several: the one whose task is made next."""
    global _task_manager
    _task_manager = weakref.ref(manager)
