"""A made-up TVBench in the layout of the real one, for lmms-eval's stock `tvbench` tasks."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

from tests.support.clips import write_clip

REPOSITORY = "FunAILab/TVBench"
# Question and candidates of each sub-task; the answer alternates.
QUESTIONS: dict[str, tuple[str, list[str]]] = {
    "action_antonym": (
        "What is the action being performed in the video?",
        ["Put on a hat", "Take off a hat"],
    ),
    "action_count": ("How many times does the square turn around?", ["2", "3", "4", "5"]),
    "action_localization": ("When does the square move?", ["At the start.", "In the middle.", "At the end."]),
    "action_sequence": ("What did the square do first?", ["Move to the left.", "Move to the right."]),
    "egocentric_sequence": (
        "What is the sequence of actions?",
        ["Opens, then closes.", "Closes, then opens."],
    ),
    "moving_direction": ("What direction does the square move in?", ["Up", "Down", "Left", "Right"]),
    "object_count": ("How many squares enter the scene?", ["0", "1", "2"]),
    "object_shuffle": (
        "Under which cup is the square at the end?",
        ["The first.", "The second.", "The third."],
    ),
    "scene_transition": ("Which scene change is shown?", ["From red to green.", "From green to red."]),
    "unexpected_action": (
        "What is unusual about the clip?",
        ["It disappears.", "It comes back.", "Nothing."],
    ),
}
CLIPPED = ("action_localization", "action_sequence")  # rows with a start and an end, in seconds


def make_tvbench(folder: Path, *, rows: int = 2, frames: int = 24, fps: int = 8) -> Path:
    """README.md with one configuration a sub-task, json/NAME.json, and one video.zip of all clips."""
    (folder / "json").mkdir(parents=True, exist_ok=True)
    configs = [f"- config_name: {name}\n  data_files: json/{name}.json\n" for name in QUESTIONS]
    (folder / "README.md").write_text(f"---\nconfigs:\n{''.join(configs)}---\n\nMade for tests.\n")
    clip = folder / "clip.mp4"
    with zipfile.ZipFile(folder / "video.zip", "w") as archive:
        for task, name in enumerate(QUESTIONS):
            for row in range(rows):
                write_clip(clip, frames=frames, fps=fps, seed=100 * task + row)
                archive.write(clip, f"video/{name}/{_clip_name(name, row)}")
            listed = [_row(name, row, seconds=frames / fps) for row in range(rows)]
            (folder / "json" / f"{name}.json").write_text(json.dumps(listed, indent=1))
    clip.unlink()
    return folder


def _clip_name(name: str, row: int) -> str:
    """Unlike any other clip's: the host looks for the bare name in the folders of all sub-tasks."""
    return f"{name}_{row}.mp4"


def _row(name: str, row: int, seconds: float) -> dict[str, Any]:
    question, candidates = QUESTIONS[name]
    made: dict[str, Any] = {
        "video": _clip_name(name, row),
        "question": question,
        "candidates": candidates,
        "answer": candidates[row % len(candidates)],
    }
    if name in CLIPPED:
        made |= {"start": 0.25 * seconds, "end": 0.75 * seconds}
    return made
