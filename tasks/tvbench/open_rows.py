"""TVBench without its options: a sentence to complete (paper, Figs A to C)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from lmms_flow.tasks.open_questions import OpenQuestion, checked
from lmms_flow.tasks.questions import dataset
from lmms_flow.tasks.shared import clips_folder, existing

from .rows import folders_of

# The beginning of the answer, by sub-task. The paper tells that of moving_direction; the others are this package's own.
BEGINNINGS = {
    "action_antonym": "\nThe action in the video is:",
    "moving_direction": "\nThe {object} moves to the",
    "object_count": "\nThe number is",
}
# Where a question names the object that moves: "What direction is the cyan sphere moving within the video?"
_OBJECT = re.compile(
    r"direction (?:is|does|did|was) the (?P<object>.+?) (?:mov|going|head|travel)", re.IGNORECASE
)
_TO_THE = re.compile(r"^to the\s+", re.IGNORECASE)


def process_docs(rows: Any) -> Any:
    """FunAILab/TVBench, one configuration a sub-task; its clips lie as for the multiple-choice tasks."""
    folder, sub_task = clips_folder("tvbench"), str(rows.config_name)

    def read(numbered: tuple[int, Mapping[str, Any]]) -> OpenQuestion:
        index, row = numbered
        return OpenQuestion(
            id=f"{sub_task}-{index}",
            video=existing(place / row["video"] for place in folders_of(folder, sub_task)),
            start=None,
            end=None,
            question=row["question"],
            answer=_TO_THE.sub("", str(row["answer"]).strip()),
            begun=begun(sub_task, row["question"]),
            family=sub_task,
        )

    return dataset(enumerate(rows), read, checked)


def begun(sub_task: str, question: str) -> str:
    """The beginning of the answer. Raises ValueError where the question does not name the object that it needs."""
    beginning = BEGINNINGS[sub_task]
    if "{object}" not in beginning:
        return beginning
    found = _OBJECT.search(question)
    if found is None:
        raise ValueError(f"the question {question!r} does not say which object moves")
    return beginning.format(object=found["object"])
