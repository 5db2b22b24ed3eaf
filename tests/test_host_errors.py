"""One truncated video among a hundred, through the real command lines: recorded, or the end of the run."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from lmms_flow.records.journal import read_journal
from tests.support.clips import write_clip
from tests.support.host import Environment, host_env, processes_in, run_cli
from tests.support.hub import Hub

pytestmark = pytest.mark.host

DOCUMENTS = 100
BROKEN = 63
CANDIDATES = ["Left", "Right", "Up", "Down"]

# The paper's prompt and scoring over a user's own rows: lmms-eval's way to write a task, with our functions.
TASK = """\
task: hundred
dataset_path: json
dataset_kwargs: {{data_files: {{test: {rows}}}}}
test_split: test
output_type: generate_until
doc_to_visual: !function lmms_flow.tasks.questions.doc_to_visual
doc_to_text: !function lmms_flow.tasks.questions.doc_to_text
doc_to_messages: !function lmms_flow.tasks.questions.doc_to_messages
doc_to_target: !function lmms_flow.tasks.questions.doc_to_target
process_results: !function lmms_flow.tasks.questions.process_results
generation_kwargs: {{max_new_tokens: 1}}
metric_list:
  - {{metric: accuracy, aggregation: mean, higher_is_better: true}}
  - {{metric: errors, aggregation: !function lmms_flow.harness.totals.total, higher_is_better: false}}
metadata: {{lmms_flow: true, protocol: paper}}
"""


@pytest.fixture(scope="module")
def env(hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    return host_env(hub, tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the task, its rows and its clips, of which one lost its second half."""
    folder = tmp_path_factory.mktemp("task")
    rows = []
    for number in range(DOCUMENTS):
        clip = Path(write_clip(folder / f"clip-{number:03}.mp4", frames=8, seed=number))
        if number == BROKEN:
            clip.write_bytes(clip.read_bytes()[: clip.stat().st_size // 2])
        rows.append(row(number, clip))
    (folder / "rows.json").write_text(json.dumps(rows))
    (folder / "hundred.yaml").write_text(TASK.format(rows=folder / "rows.json"))
    return folder


def row(number: int, clip: Path) -> dict[str, object]:
    return {
        "id": f"question-{number:03}",
        "video": str(clip),
        "start": None,
        "end": None,
        "question": "In which direction does the square move?",
        "candidates": CANDIDATES,
        "answer_letter": "ABCD"[number % 4],
        "family": "direction",
        "pair": None,
    }


def arguments(task: Path, *more: str) -> list[str]:
    run = ["--model", "llava_vid_flow", "--include_path", str(task), "--tasks", "hundred"]
    return [
        *run,
        "--log_samples",
        "--output_path",
        "out",
        "--model_args",
        ",".join(("pretrained=flow-tiny", *more)),
    ]


def test_recorded_it_is_reported_and_not_scored(task: Path, env: Environment, tmp_path: Path) -> None:
    done = run_cli(["eval", *arguments(task, "on_error=record")], env, cwd=tmp_path, program="lmms-flow")
    assert done.returncode == 1
    assert last_line(done.stderr) == (
        "lmms-flow eval: 1 of the samples failed (hundred: 1); --allow-errors accepts that"
    )
    (log,) = tmp_path.glob("out/**/*_samples_hundred.jsonl")
    samples = [json.loads(line) for line in log.read_text().splitlines()]
    scored = [sample["doc_id"] for sample in samples if "accuracy" in sample]
    assert scored == [number for number in range(DOCUMENTS) if number != BROKEN]
    (results,) = tmp_path.glob("out/**/*_results.json")
    metrics = json.loads(results.read_text())["results"]["hundred"]
    assert metrics["errors,none"] == 1
    right = sum(sample["accuracy"] for sample in samples if "accuracy" in sample)
    assert metrics["accuracy,none"] == pytest.approx(right / (DOCUMENTS - 1))

    compared = run_cli(["compare", "out"], env, cwd=tmp_path, program="lmms-flow")
    assert compared.returncode == 1
    assert last_line(compared.stderr) == ("lmms-flow compare: 1 samples failed; --allow-errors accepts that")
    none, broken = cells(compared.stdout, "none (full attention)")
    assert none[1] == str(DOCUMENTS - 1)
    assert broken[1:4] == ["hundred", str(BROKEN), "error"]
    assert (
        run_cli(["compare", "out", "--allow-errors"], env, cwd=tmp_path, program="lmms-flow").returncode == 0
    )


def test_raised_it_ends_the_run_with_its_name(task: Path, env: Environment, tmp_path: Path) -> None:
    done = run_cli(arguments(task), env, cwd=tmp_path)
    assert done.returncode == 1
    line = last_line(done.stderr)
    assert f"task hundred, document {BROKEN}: " in line
    assert str(task / f"clip-{BROKEN:03}.mp4") in line
    assert not list(tmp_path.glob("out/**/*_results.json"))
    answered = [record for record in read_journal(tmp_path / "lmms_flow_records") if record.status == "ok"]
    assert [record.doc_id for record in answered] == list(range(BROKEN)), "what was answered before is kept"


def test_raised_on_one_of_two_ranks_it_ends_both(task: Path, env: Environment, tmp_path: Path) -> None:
    launch = ["launch", "--multi_gpu", "--num_processes", "2", "-m", "lmms_eval", *arguments(task)]
    cpu = {"ACCELERATE_USE_CPU": "true"}
    done = run_cli(launch, env | cpu, cwd=tmp_path, program="accelerate", timeout=300)
    assert done.returncode == 1
    assert f"task hundred, document {BROKEN}: " in done.stderr
    assert not list(tmp_path.glob("out/**/*_results.json"))
    ranks = {file.suffixes[0] for file in tmp_path.glob("lmms_flow_records/*.jsonl")}
    assert ranks == {".rank0", ".rank1"}
    assert processes_in(tmp_path) == []


def last_line(text: str) -> str:
    return text.strip().splitlines()[-1]


def cells(printed: str, arm: str) -> list[Sequence[str]]:
    """The cells of the rows of an arm, table after table."""
    lines = [line.strip() for line in printed.splitlines() if line.startswith(f"{arm}  ")]
    return [re.split(r"\s{2,}", line) for line in lines]
