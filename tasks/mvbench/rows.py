"""MVBench: its rows as questions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lmms_flow.harness import host
from lmms_flow.tasks.questions import Question, dataset
from lmms_flow.tasks.shared import clips_folder, existing, of_sub_task


def process_docs(rows: Any) -> Any:
    """OpenGVLab/MVBench at its revision `video`, one configuration a sub-task; clips below `$HF_HOME/mvbench_video`.

    The clips of that revision are already cut, so a row's bounds are not applied a second time.
    """
    folder, sub_task = clips_folder("mvbench_video"), str(rows.config_name)
    own = host.MVBENCH_FOLDERS.take()[sub_task]  # which sub-task has its clips where
    places = (folder / own, folder / "data0613" / own)

    def read(numbered: tuple[int, Mapping[str, Any]]) -> Question:
        index, row = numbered
        return of_sub_task(row, sub_task, index, existing(place / row["video"] for place in places))

    return dataset(enumerate(rows), read)
