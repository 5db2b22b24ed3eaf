"""TVBench: its rows as questions."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lmms_flow.tasks.questions import Question, dataset
from lmms_flow.tasks.shared import clips_folder, existing, of_sub_task

TVBENCH = (
    "action_antonym",
    "action_count",
    "action_localization",
    "action_sequence",
    "egocentric_sequence",
    "moving_direction",
    "object_count",
    "object_shuffle",
    "scene_transition",
    "unexpected_action",
)
# TVBench's sub-tasks that ask about a part of the clip, from a row's `start` to its `end` in seconds.
CLIPPED = ("action_localization", "action_sequence")


def process_docs(rows: Any) -> Any:
    """FunAILab/TVBench, one configuration a sub-task; clips anywhere below `$HF_HOME/tvbench`."""
    folder, sub_task = clips_folder("tvbench"), str(rows.config_name)
    places = folders_of(folder, sub_task)

    def read(numbered: tuple[int, Mapping[str, Any]]) -> Question:
        index, row = numbered
        bounds = (row.get("start"), row.get("end")) if sub_task in CLIPPED else (None, None)
        video = existing(place / row["video"] for place in places)
        return of_sub_task(row, sub_task, index, video, *bounds)

    return dataset(enumerate(rows), read)


def folders_of(folder: Path, sub_task: str) -> list[Path]:
    """Where a clip may lie, as lmms-eval looks; the sub-task's own folder first: two may have clips of one name."""
    sub_folders = (sub_task, "", *(name for name in TVBENCH if name != sub_task))
    return [folder / base / sub for sub in sub_folders for base in ("video", "videos", "data", "")]
