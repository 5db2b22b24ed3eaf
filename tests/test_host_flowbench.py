"""The main job through the real command line: the bundled model on the bundled benchmark, as a user runs it."""

from __future__ import annotations

import csv
import json
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from lmms_flow.harness.journal import read_journal
from tests.host import host_env, run_cli
from tests.hub import Hub

pytestmark = pytest.mark.host

TASK = "flowbench_moving_direction"
QUESTIONS = 40


def arguments(
    folder: Path, flow: str, *, task: str = TASK, limit: int = QUESTIONS, extra: str = ""
) -> list[str]:
    model_args = f"pretrained=flow-tiny,flow={flow},records={folder}/records{extra}"
    run = ["--model", "llava_vid_flow", "--model_args", model_args, "--tasks", task, "--limit", str(limit)]
    return [*run, "--log_samples", "--output_path", f"{folder}/out"]


def scores(folder: Path) -> list[tuple[int, float]]:
    log = max(folder.glob(f"out/**/*_samples_{TASK}.jsonl"), key=lambda path: path.stat().st_mtime_ns)
    return [(line["doc_id"], line["accuracy"]) for line in map(json.loads, log.read_text().splitlines())]


@pytest.fixture
def env(hub: Hub, tmp_path: Path) -> dict[str, str]:
    return host_env(hub, tmp_path / "home")


def test_arms_are_run_and_compared(env: dict[str, str], tmp_path: Path) -> None:
    for flow in ("none", "cross_frame@first_half"):
        done = run_cli(arguments(tmp_path, flow), env, cwd=tmp_path)
        assert done.returncode == 0, done.stderr[-2000:]
    table = tmp_path / "table.csv"
    compare = ["compare", f"{tmp_path}/out", "--output", str(table)]
    done = run_cli(compare, env, cwd=tmp_path, program="lmms-flow")
    assert done.returncode == 0, done.stderr[-2000:]
    rows = list(csv.DictReader(table.open()))
    assert [(row["flow"], row["n"]) for row in rows] == [
        ("none", str(QUESTIONS)),
        ("cross_frame@first_half", str(QUESTIONS)),
    ]
    assert all(row["arm"] in done.stdout for row in rows)
    assert float(rows[0]["share_of_edges_kept"]) == 1
    assert 0 < float(rows[1]["share_of_edges_kept"]) < 1


def test_a_killed_run_goes_on_and_answers_no_sample_twice(env: dict[str, str], tmp_path: Path) -> None:
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    assert run_cli(arguments(undisturbed, "blind"), env, cwd=tmp_path).returncode == 0
    program = str(Path(sys.executable).with_name("lmms-eval"))
    for seed in range(3):
        process = subprocess.Popen(
            [program, *arguments(killed, "blind")],
            env=env,
            cwd=tmp_path,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        wanted = len(_answers(killed)) + random.Random(seed).randint(1, 9)
        while process.poll() is None and len(_answers(killed)) < wanted:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
    before = len(_answers(killed))
    assert 0 < before < QUESTIONS, "it was not killed in the middle"
    done = run_cli(arguments(killed, "blind"), env, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert f"{before} of {QUESTIONS} answers are from the journal" in done.stdout + done.stderr
    answered = Counter(record.doc_id for record in read_journal(killed / "records"))
    assert answered == Counter(range(QUESTIONS))  # each once
    assert scores(killed) == scores(undisturbed)


def _answers(folder: Path) -> list[object]:
    records = folder / "records"
    return list(read_journal(records)) if records.is_dir() else []


def test_a_flow_file_edited_in_between_is_noticed(env: dict[str, str], tmp_path: Path) -> None:
    file = tmp_path / "flow.yaml"
    file.write_text('{cut: ["video:last"]}')
    assert run_cli(arguments(tmp_path, str(file), limit=5), env, cwd=tmp_path).returncode == 0
    file.write_text('{cut: ["video:question"]}')
    done = run_cli(arguments(tmp_path, str(file), limit=5), env, cwd=tmp_path)
    assert done.returncode == 0
    assert "changed since it was journaled" in done.stdout + done.stderr
    assert len({record.flow_digest for record in read_journal(tmp_path / "records")}) == 2
    assert len(read_journal(tmp_path / "records")) == 10


@pytest.mark.parametrize(
    ("flow", "message"),
    [
        ("video:qestion", "there is no group 'qestion'; did you mean 'question'"),
        ("video:last@40", "layer 40 does not exist, the model has layers 1-12"),
        ("effective-llava-next-7b", "this checkpoint's is effective-flow-tiny"),
        ("system:system+video:video", "leaves token 0 (system) without any key"),
    ],
)
def test_a_flow_that_cannot_run_ends_with_one_line_and_a_status(
    flow: str, message: str, env: dict[str, str], tmp_path: Path
) -> None:
    done = run_cli(arguments(tmp_path, flow, limit=2), env, cwd=tmp_path)
    assert done.returncode != 0
    assert message in done.stderr
    assert not list(tmp_path.glob("out/**/*_results.json"))


def test_our_tasks_need_no_flag_for_our_model_and_one_for_others(env: dict[str, str], tmp_path: Path) -> None:
    run = ["--model", "dummy", "--tasks", TASK, "--limit", "2", "--output_path", f"{tmp_path}/out"]
    done = run_cli(run, env, cwd=tmp_path)
    assert f"Tasks not found: {TASK}" in done.stdout + done.stderr
    folder = run_cli(["tasks"], env, cwd=tmp_path, program="lmms-flow").stdout.strip()
    done = run_cli([*run, "--include_path", folder], env, cwd=tmp_path)
    assert done.returncode == 0
    (results,) = tmp_path.glob("out/**/*_results.json")
    assert TASK in json.loads(results.read_text())["results"]
