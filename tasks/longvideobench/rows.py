"""LongVideoBench: its rows as questions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lmms_flow.tasks.questions import LETTERS, Question, dataset
from lmms_flow.tasks.shared import clips_folder


def process_docs(rows: Any) -> Any:
    """longvideobench/LongVideoBench, its split `validation`, without subtitles; the family is the question's category.

    Options stand in `option0` to `option4`, "N/A" where there are fewer. A row says how long its video is, and that
    counts where frames are taken by the second. Clips lie below `$HF_HOME/datasets/longvideobench/videos`.
    """
    folder = clips_folder("datasets/longvideobench") / "videos"

    def read(row: Mapping[str, Any]) -> Question:
        given = {place: row.get(f"option{place}") for place in range(5)}
        options = {place: text for place, text in given.items() if text not in (None, "N/A")}
        right = int(row["correct_choice"])
        asked = Question(
            id=row["id"],
            video=str(folder / row["video_path"]),
            start=None,
            end=None,
            question=row["question"],
            candidates=[str(text) for text in options.values()],
            answer_letter=LETTERS[list(options).index(right)] if right in options else str(right),
            family=row["question_category"],
            pair=None,
        )
        if row.get("duration") is not None:
            asked["duration"] = float(row["duration"])
        return asked

    return dataset(rows, read)
