"""What the rows of several public benchmarks have in common.

Repositories, splits and the folders of the clips are those of lmms-eval's own tasks, so that a user downloads once.
Rows are read at every start, so no clip is opened. A clip that is not there gets the path where it should be, and the
request loop reports it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lmms_flow.tasks.questions import LETTERS, Question


def clips_folder(name: str) -> Path:
    """Where lmms-eval unpacks a data set's clips: its `cache_dir` in Hugging Face's folder."""
    home = os.getenv("HF_HOME") or "~/.cache/huggingface"
    return Path(home).expanduser().absolute() / name


def existing(paths: Iterable[Path]) -> str:
    """The first path that is there, else the first of all: where the clip should be."""
    expected = None
    for path in paths:
        expected = expected or path
        if path.exists():
            return str(path)
    return str(expected)


def of_sub_task(
    row: Mapping[str, Any],
    sub_task: str,
    index: int,
    video: str,
    start: float | None = None,
    end: float | None = None,
) -> Question:
    """A row of TVBench or MVBench: the answer repeats a candidate, and rows have no ids."""
    candidates = list(row["candidates"])
    return Question(
        id=f"{sub_task}-{index}",
        video=video,
        start=start,
        end=end,
        question=row["question"],
        candidates=candidates,
        answer_letter=letter_of(str(row["answer"]), candidates),
        family=sub_task,
        pair=None,
    )


def letter_of(answer: str, candidates: Sequence[str]) -> str:
    """The letter of the candidate that the answer repeats, as the paper's code looks for it.

    Case and white space count, and of equal candidates it is the last one. Where none is equal, the answer itself; in
    quotes where it would pass for a letter.
    """
    equal = [letter for letter, text in zip(LETTERS, candidates, strict=False) if text == answer]
    return equal[-1] if equal else answer if len(answer) != 1 else repr(answer)


def letter_at(place: int, candidates: Sequence[str]) -> str:
    """The letter of the option at a place; a place that no option has is left as it is, and the document refused."""
    return LETTERS[place] if 0 <= place < len(candidates) else str(place)
