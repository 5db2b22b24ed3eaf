"""VCGBench (Video-ChatGPT's benchmark): its temporal questions, answered freely (paper, Fig D)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lmms_flow.tasks.open_questions import OpenQuestion, checked
from lmms_flow.tasks.questions import dataset
from lmms_flow.tasks.shared import clips_folder, existing

ENDINGS = (".mp4", ".MP4", ".mkv")


def process_docs(rows: Any) -> Any:
    """lmms-eval/VideoChatGPT, configuration `Temporal`; clips in `$HF_HOME/videochatgpt/Test_Videos`."""
    folder = clips_folder("videochatgpt") / "Test_Videos"

    def read(numbered: tuple[int, Mapping[str, Any]]) -> OpenQuestion:
        index, row = numbered
        return OpenQuestion(
            id=f"temporal-{index}",
            video=existing(folder / f"{row['video_name']}{ending}" for ending in ENDINGS),
            start=None,
            end=None,
            question=row["question"],
            answer=row["answer"],
            begun="",
            family="temporal",
        )

    return dataset(enumerate(rows), read, checked)
