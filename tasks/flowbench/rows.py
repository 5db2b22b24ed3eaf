"""The bundled benchmark as lmms-eval reads it: files beside the package, no network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lmms_flow import assets
from lmms_flow.tasks.questions import Question, dataset

FAMILIES = ("action_antonym", "moving_direction", "action_sequence", "scene_transition", "object_count")


def __getattr__(name: str) -> str:
    """``!function lmms_flow.tasks.flowbench.rows.FAMILY`` in a YAML is the path of that family's file.

    A YAML can't know where the package is installed, and lmms-eval takes any attribute of a module.
    """
    if name not in FAMILIES:
        raise AttributeError(f"flowbench has no family {name!r}, only {', '.join(FAMILIES)}")
    file = assets.flowbench_dir() / f"{name}.jsonl"
    if not file.is_file():
        raise FileNotFoundError(f"flowbench is not installed: there is no {file}")
    return str(file)


def process_docs(rows: Any) -> Any:
    """Rows of a family's file as questions."""
    return dataset(rows, _read)


def _read(row: Mapping[str, Any]) -> Question:
    return Question(
        id=row["id"],
        video=str(assets.flowbench_dir() / row["video"]),
        start=None,
        end=None,
        question=row["question"],
        candidates=list(row["candidates"]),
        answer_letter=row["answer_letter"],
        family=row["family"],
        pair=row["pair"],
    )
