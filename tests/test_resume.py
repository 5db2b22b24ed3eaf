"""A leaderboard whose journal lost answers goes on with the same numbers, whichever arms of a question are missing."""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import Any

import pytest
from lmms_eval.evaluator import simple_evaluate
from lmms_eval.tasks import TaskManager

from lmms_flow.harness import plugin
from lmms_flow.harness.arms import ARMS
from lmms_flow.model_wrappers.llava_vid import LlavaVidFlow

TASKS = ["flowbench_object_count", *(f"flowbench_flow_{arm.name}_object_count" for arm in ARMS)]
QUESTIONS = 3


def run(records: Path) -> dict[tuple[str, int], dict[str, Any]]:
    """The records of all arms, without what a clock says."""
    out = simple_evaluate(
        model=LlavaVidFlow(pretrained="flow-tiny", device="cpu", records=str(records)),
        tasks=TASKS,
        limit=QUESTIONS,
        task_manager=TaskManager(include_defaults=False, model_name="llava_vid_flow"),
    )
    found = [dict(sample["record"]) for samples in out["samples"].values() for sample in samples]
    for record in found:
        record.pop("milliseconds"), record.pop("shared_milliseconds")
    return {(record["task"], record["doc_id"]): record for record in found}


def lose_lines(records: Path, seed: int) -> int:
    """Takes half of the journal's lines away, here and there; returns how many are left."""
    drawn, left = random.Random(seed), 0
    for file in sorted(records.glob("*.jsonl")):
        lines = [line for line in file.read_text().splitlines(keepends=True) if drawn.random() < 0.5]
        file.write_text("".join(lines))
        left += len(lines)
    return left


@pytest.mark.parametrize("seed", [1, 2])
def test_numbers_are_the_same_in_every_digit(seed: int, undisturbed: Path, tmp_path: Path) -> None:
    """Probabilities, edges and FLOPs: a baseline that is recorded anew is the full-attention arm's."""
    everything = run(undisturbed)  # all of it from the journal
    assert len(everything) == len(TASKS) * QUESTIONS
    records = shutil.copytree(undisturbed, tmp_path / "records")
    assert 0 < lose_lines(records, seed) < len(everything)
    assert run(records) == everything


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The journal of a run that nothing came between."""
    plugin.make_tasks_known()
    records = tmp_path_factory.mktemp("undisturbed")
    run(records)
    return records
