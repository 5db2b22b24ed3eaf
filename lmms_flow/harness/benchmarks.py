"""The rows of five public benchmarks as questions.

Repositories, splits and the folders of the clips are those of lmms-eval's own tasks, so that a user downloads once.
A task's YAML names one of these functions as its `process_docs`; they run at every start, so they open no clip. A clip
that is not there gets the path where it should be, and the request loop reports it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lmms_flow.harness import host
from lmms_flow.harness.questions import LETTERS, Question, dataset

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


def tvbench(rows: Any) -> Any:
    """FunAILab/TVBench, one configuration a sub-task; clips anywhere below `$HF_HOME/tvbench`, as lmms-eval looks.

    Two sub-tasks may have clips of one name, so the sub-task's own folder comes first.
    """
    folder, sub_task = clips_folder("tvbench"), str(rows.config_name)
    sub_folders = (sub_task, "", *(name for name in TVBENCH if name != sub_task))

    def read(numbered: tuple[int, Mapping[str, Any]]) -> Question:
        index, row = numbered
        places = (folder / base / sub for sub in sub_folders for base in ("video", "videos", "data", ""))
        bounds = (row.get("start"), row.get("end")) if sub_task in CLIPPED else (None, None)
        video = _existing(place / row["video"] for place in places)
        return _of_sub_task(row, sub_task, index, video, *bounds)

    return dataset(enumerate(rows), read)


def mvbench(rows: Any) -> Any:
    """OpenGVLab/MVBench at its revision `video`, one configuration a sub-task; clips below `$HF_HOME/mvbench_video`.

    The clips of that revision are already cut, so a row's bounds are not applied a second time.
    """
    folder, sub_task = clips_folder("mvbench_video"), str(rows.config_name)
    own = host.MVBENCH_FOLDERS.take()[sub_task]  # which sub-task has its clips where
    places = (folder / own, folder / "data0613" / own)

    def read(numbered: tuple[int, Mapping[str, Any]]) -> Question:
        index, row = numbered
        return _of_sub_task(row, sub_task, index, _existing(place / row["video"] for place in places))

    return dataset(enumerate(rows), read)


def tomato(rows: Any) -> Any:
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
            answer_letter=_letter_at(row["answer"], row["options"]),
            family=row["reason_type"],
            pair=None,
        )

    return dataset(rows, read)


def videomme(rows: Any) -> Any:
    """lmms-eval/Video-MME, its split `test`; the family is the type of task, such as "Action Recognition".

    Options come as "A. …" and are asked as they come. Clips are `$HF_HOME/videomme/data/ID.mp4` (or mkv).
    """
    folder = clips_folder("videomme") / "data"

    def read(row: Mapping[str, Any]) -> Question:
        marked = [_marked(*pair) for pair in zip(LETTERS, row["options"], strict=False)]
        return Question(
            id=row["question_id"],
            video=_existing(folder / f"{row['videoID']}.{kind}" for kind in ("mp4", "MP4", "mkv")),
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


def longvideobench(rows: Any) -> Any:
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


def _of_sub_task(
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
        answer_letter=_letter_of(str(row["answer"]), candidates),
        family=sub_task,
        pair=None,
    )


def clips_folder(name: str) -> Path:
    """Where lmms-eval unpacks a data set's clips: its `cache_dir` in Hugging Face's folder."""
    home = os.getenv("HF_HOME") or "~/.cache/huggingface"
    return Path(home).expanduser().absolute() / name


def _existing(paths: Iterable[Path]) -> str:
    """The first path that is there, else the first of all: where the clip should be."""
    expected = None
    for path in paths:
        expected = expected or path
        if path.exists():
            return str(path)
    return str(expected)


def _letter_of(answer: str, candidates: Sequence[str]) -> str:
    """The letter of the candidate that the answer repeats, as the paper's code looks for it.

    Case and white space count, and of equal candidates it is the last one. Where none is equal, the answer itself; in
    quotes where it would pass for a letter.
    """
    equal = [letter for letter, text in zip(LETTERS, candidates, strict=False) if text == answer]
    return equal[-1] if equal else answer if len(answer) != 1 else repr(answer)


def _marked(letter: str, option: str) -> tuple[str, str]:
    """An option with its mark, as it is where it has one, and its words alone."""
    words = re.sub(rf"^\s*\(?{letter}[.:)]\s*", "", option)
    return (option if words != option else f"{letter}. {option}"), words


def _letter_at(place: int, candidates: Sequence[str]) -> str:
    return LETTERS[place] if 0 <= place < len(candidates) else str(place)
