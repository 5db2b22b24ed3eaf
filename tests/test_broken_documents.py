"""Documents that can't be asked about or scored: each is one failed sample, and the others are answered."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tenacity
from lmms_eval.__main__ import cli_evaluate
from lmms_eval.evaluator import simple_evaluate
from lmms_eval.tasks import TaskManager

from lmms_flow.assets import flowbench_dir
from lmms_flow.errors import RunError
from lmms_flow.harness import loop, plugin

OURS = "llava_vid_flow"
BASE = "flowbench_object_count"
ROWS = [json.loads(line) for line in (flowbench_dir() / "object_count.jsonl").read_text().splitlines()[:3]]


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plugin.make_tasks_known()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(loop, "failures", type(loop.failures)())
    monkeypatch.setattr(
        tenacity.nap, "time", SimpleNamespace(sleep=lambda seconds: None)
    )  # lmms-eval tries again


def evaluate(task: str, on_error: str) -> list[dict[str, Any]]:
    out = simple_evaluate(
        model=OURS,
        model_args=f"pretrained=flow-tiny,device=cpu,records=none,on_error={on_error},flow=video:last",
        tasks=[task],
        task_manager=TaskManager(include_path="tasks", include_defaults=False, model_name=OURS),
    )
    (samples,) = out["samples"].values()
    return sorted(samples, key=lambda sample: int(sample["doc_id"]))


def write_task(rows: list[dict[str, Any]], yaml: str) -> None:
    """`mine`: a task over these rows."""
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    Path("tasks").mkdir()
    Path("tasks/mine.yaml").write_text(yaml)


ARM = (
    "task: mine\nclass: !function lmms_flow.harness.flow_task.FlowTask\n"
    f"base: {BASE}\nflow: video:last\ndataset_kwargs: {{data_files: {{test: rows.jsonl}}}}\n"
)
BROKEN: dict[str, tuple[dict[str, Any], str]] = {
    "an answer that is no letter of its options": ({"answer_letter": "J"}, "the answer 'J' is not one of"),
    "no options": ({"candidates": []}, "a question needs 2 to 10 options, this one has 0"),
    "a field that is not filled": ({"question": None}, "its question is None, not text"),
}


@pytest.mark.parametrize(("kind", "place"), zip(BROKEN, (0, 1, 2), strict=True))
def test_of_our_benchmarks(kind: str, place: int) -> None:
    changes, says = BROKEN[kind]
    rows = [{**row, **(changes if index == place else {})} for index, row in enumerate(ROWS)]
    write_task(rows, ARM)
    samples = evaluate("mine", "record")
    records = [dict(sample["record"]) for sample in samples]
    assert [record["status"] for record in records] == [
        "error" if index == place else "ok" for index in range(3)
    ]
    assert says in records[place]["reason"]
    assert records[place]["id"] == ROWS[place]["id"]
    assert "accuracy" not in samples[place], "not scored as wrong"
    assert samples[place]["errors"] == 1
    if place == 0:
        with pytest.raises(RunError, match=f"task mine, document 0: .*{says}"):
            evaluate("mine", "raise")


STOCK = """
task: stock
dataset_path: json
dataset_kwargs: {data_files: {test: rows.jsonl}}
test_split: test
output_type: generate_until
generation_kwargs: {max_new_tokens: 1}
doc_to_visual: !function stock.visual
doc_to_text: !function stock.text
doc_to_target: answer_letter
process_results: !function stock.score
metric_list: [{metric: right, aggregation: mean, higher_is_better: true}]
"""
STOCK_CODE = """
def broken(scores):
    raise KeyError("right")

from lmms_flow.assets import flowbench_dir

def visual(doc):
    return [str(flowbench_dir() / doc["video"])]

def text(doc, kwargs=None):
    options = "".join(f"\\n({letter}) {one}" for letter, one in zip("ABCD", doc["candidates"]))
    return "Question: " + doc["question"] + options

def score(doc, results):
    return {"right": float(results[0].startswith("ABCD"["ABCD".index(doc["answer_letter"])]))}
"""


def write_stock_task(aggregation: str = "mean") -> None:
    Path("tasks/stock.yaml").write_text(STOCK.replace("aggregation: mean", f"aggregation: {aggregation}"))
    Path("tasks/stock.py").write_text(STOCK_CODE)


BROKEN_IN_A_STOCK_TASK = [
    ({"question": None}, "the task can't make a prompt of the document (TypeError"),
    ({"candidates": None}, "the task can't make a prompt of the document (TypeError"),
    ({"answer_letter": "J"}, "document 1 can't be scored (ValueError"),
]


@pytest.mark.parametrize(("changes", "says"), BROKEN_IN_A_STOCK_TASK)
def test_of_a_stock_task_that_an_arm_asks_about(changes: dict[str, Any], says: str) -> None:
    write_task(
        [ROWS[0], {**ROWS[1], **changes}, ROWS[2]],
        "task: mine\nclass: !function lmms_flow.harness.flow_task.FlowTask\nbase: stock\nflow: video:last\n",
    )
    write_stock_task()
    samples = evaluate("mine", "record")
    records = [dict(sample["record"]) for sample in samples]
    assert [record["status"] for record in records] == ["ok", "error", "ok"]
    assert says in records[1]["reason"]
    assert [sample["errors"] for sample in samples] == [0, 1, 0]
    assert ["right" in sample for sample in samples] == [True, False, True]
    assert loop.failures["mine"] == 1
    with pytest.raises(RunError, match="task mine.*document"):
        evaluate("mine", "raise")


@pytest.mark.parametrize(("changes", "says"), BROKEN_IN_A_STOCK_TASK)
def test_of_a_stock_task(changes: dict[str, Any], says: str) -> None:
    write_task([ROWS[0], {**ROWS[1], **changes}, ROWS[2]], "task: other\ndataset_path: json\n")
    write_stock_task()
    samples = evaluate("stock", "record")
    can_be_scored = "scored" not in says
    assert ["right" in sample for sample in samples] == [True, can_be_scored, True]
    assert loop.failures["stock"] == 1
    with pytest.raises(RunError, match=re.escape(says)):
        evaluate("stock", "raise")


def test_what_fails_twice_is_one_failed_sample() -> None:
    """It can't be asked about, and its empty answer can't be scored."""
    write_task([ROWS[0], {**ROWS[1], "question": None, "answer_letter": "J"}, ROWS[2]], "task: other\n")
    write_stock_task()
    assert ["right" in sample for sample in evaluate("stock", "record")] == [True, False, True]
    assert loop.failures["stock"] == 1


def command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """As `lmms-eval` runs it."""
    arguments = ["--model", OURS, "--include_path", "tasks", "--tasks", "stock"]
    arguments += ["--model_args", "pretrained=flow-tiny,device=cpu,records=none"]
    monkeypatch.setattr(sys, "argv", ["lmms-eval", *arguments])
    cli_evaluate()


@pytest.mark.parametrize(
    ("spoil", "says"), [("scores", "KeyError: 'right'"), ("data", "FileNotFoundError: ")]
)
def test_what_else_a_task_raises_is_no_exit_status_0(
    spoil: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_task(ROWS, "task: other\n")
    write_stock_task(aggregation="!function stock.broken")
    if spoil == "data":
        Path("rows.jsonl").unlink()
    with pytest.raises(RunError, match=f"the evaluation ended: {says}"):
        command_line(monkeypatch)
    if spoil == "scores":
        with pytest.raises(KeyError):  # a program that asks for an evaluation gets what was raised
            evaluate("stock", "raise")


def test_options_that_are_numbers_in_a_stock_task() -> None:
    """They are what the text shows, so they are read: the probability of each letter is in the record."""
    rows = [{**row, "candidates": [1, 2, 3], "answer_letter": "A"} for row in ROWS]
    write_task(
        rows,
        "task: mine\nclass: !function lmms_flow.harness.flow_task.FlowTask\nbase: stock\nflow: video:last\n",
    )
    write_stock_task()
    samples = evaluate("mine", "raise")
    assert len(samples) == len(rows)
    for sample in samples:
        assert sample["record"]["status"] == "ok"
        assert set(sample["record"]["options"]) == {"A", "B", "C"}
