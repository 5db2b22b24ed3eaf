"""What the committed search found, asked again: the bundled model under its pathway and under a random one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks.search_pool import answers, rows
from lmms_flow.report.kept import Kept, at_random, narrow

pytestmark = pytest.mark.host

FOUND = json.loads((Path(__file__).parents[1] / "benchmarks/results/search.json").read_text("utf-8"))
TASKS = ("action_antonym", "action_sequence", "moving_direction", "object_count", "scene_transition")
HELD_OUT, EVERY = range(54, 108), 6


def written(content: dict[str, Any], file: Path) -> str:
    file.write_text(yaml.safe_dump(content), "utf-8")
    return str(file)


def layers(told: str) -> range:
    numbers = json.loads(told)
    return range(numbers[0], numbers[-1] + 1) if numbers else range(0)


def test_the_pathway_answers_as_full_attention_does_and_a_random_one_of_its_size_does_not(
    tmp_path: Path,
) -> None:
    best = {name: FOUND["best"][name] for name in ("name", "layers", "pathway", "closed", "cut")}
    edges = {edge: layers(told) for edge, told in FOUND["best"]["edges"].items()}
    kept = narrow(Kept((range(1, 5), range(5, 7), range(6, 13)), 12), edges)
    assert kept.pathway == best["pathway"]
    assert list(kept.rules) == best["cut"]
    flows = [
        written(best, tmp_path / "found.yaml"),
        written({"name": "random"} | at_random(kept, 1), tmp_path / "random.yaml"),
    ]
    questions = [(f"flowbench_{task}", number) for task in TASKS for number in HELD_OUT[::EVERY]]
    assert len({rows(task)[number]["id"] for task, number in questions}) == len(questions) == 45
    said = [answers((question, ["none", *flows])) for question in questions]
    assert [found.answer for _, found, _ in said] == [full.answer for full, _, _ in said]
    assert sum(drawn.answer != full.answer for full, _, drawn in said) > 15
