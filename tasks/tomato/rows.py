"""TOMATO: its rows as questions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lmms_flow.tasks.questions import Question, dataset
from lmms_flow.tasks.shared import clips_folder, letter_at


def process_docs(rows: Any) -> Any:
    """lmms-eval/TOMATO, its split `test`; the family is the type of reasoning, clips lie below `$HF_HOME/TOMATO`."""
    folder = clips_folder("TOMATO")

    def read(row: Mapping[str, Any]) -> Question:
        return Question(
            id=str(row["id"]),
            video=str(folder / row["video_path"]),
            start=None,
            end=None,
            question=row["question"],
            candidates=list(row["options"]),
            answer_letter=letter_at(row["answer"], row["options"]),
            family=row["reason_type"],
            pair=None,
        )

    return dataset(rows, read)
