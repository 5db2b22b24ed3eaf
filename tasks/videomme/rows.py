"""Video-MME: its rows as questions."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from lmms_flow.tasks.questions import LETTERS, Question, dataset
from lmms_flow.tasks.shared import clips_folder, existing


def process_docs(rows: Any) -> Any:
    """lmms-eval/Video-MME, its split `test`; the family is the type of task, such as "Action Recognition".

    Options come as "A. …" and are asked as they come. Clips are `$HF_HOME/videomme/data/ID.mp4` (or mkv).
    """
    folder = clips_folder("videomme") / "data"

    def read(row: Mapping[str, Any]) -> Question:
        marked = [_marked(*pair) for pair in zip(LETTERS, row["options"], strict=False)]
        return Question(
            id=row["question_id"],
            video=existing(folder / f"{row['videoID']}.{kind}" for kind in ("mp4", "MP4", "mkv")),
            start=None,
            end=None,
            question=row["question"],
            candidates=[words for _, words in marked],
            answer_letter=row["answer"].strip()[:1],
            family=row["task_type"],
            pair=None,
            options=[option for option, _ in marked],
        )

    return dataset(rows, read)


def _marked(letter: str, option: str) -> tuple[str, str]:
    """An option with its mark, as it is where it has one, and its words alone."""
    words = re.sub(rf"^\s*\(?{letter}[.:)]\s*", "", option)
    return (option if words != option else f"{letter}. {option}"), words
