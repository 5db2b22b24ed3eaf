"""Traces through the real command line: killed again and again, on two ranks, and before they start."""

from __future__ import annotations

from pathlib import Path

import pytest

from lmms_flow.records.journal import read_journal
from lmms_flow.report.maps import read_maps
from tests.support.host import Environment, host_env, run_cli, start_cli, wait_until
from tests.support.hub import Hub

pytestmark = pytest.mark.host

TASKS = "flowbench_flow_trace_object_count,flowbench_flow_trace_action_antonym"
LIMIT = 4
ARGUMENTS = ["eval", "--model", "llava_vid_flow", "--model_args", "pretrained=flow-tiny", "--tasks", TASKS]
ARGUMENTS += ["--limit", str(LIMIT), "--log_samples", "--output_path", "out"]


@pytest.fixture(scope="module")
def env(paper_hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    return host_env(paper_hub, tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="module")
def undisturbed(env: Environment, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    done = run_cli(ARGUMENTS, env, cwd=folder, program="lmms-flow")
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def arrays(folder: Path) -> dict[str, bytes]:
    root = folder / "lmms_flow_records/arrays"
    return {str(file.relative_to(root)): file.read_bytes() for file in root.rglob("*") if file.is_file()}


def answers(folder: Path) -> int:
    return sum(file.read_bytes().count(b"\n") for file in folder.glob("lmms_flow_records/*.jsonl"))


def test_a_map_that_is_killed_three_times_has_the_same_bytes(
    env: Environment, undisturbed: Path, tmp_path: Path
) -> None:
    for kept in (1, 3, 6):
        with (tmp_path / "log").open("a") as log:
            process = start_cli(ARGUMENTS, env, cwd=tmp_path, program="lmms-flow", output=log)
            wait_until(lambda kept=kept: answers(tmp_path) >= kept, process, timeout=500)
            assert process.poll() is None, "it was still running"
            process.kill()
            process.wait()
        assert kept <= answers(tmp_path) < 2 * LIMIT
    done = run_cli(ARGUMENTS, env, cwd=tmp_path, program="lmms-flow")
    assert done.returncode == 0, done.stderr[-3000:]
    assert arrays(tmp_path) == arrays(undisturbed)
    assert len(read_journal(tmp_path / "lmms_flow_records")) == 2 * LIMIT, "nothing was traced twice"


def test_the_map_of_a_run_is_read_from_its_results(
    undisturbed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(undisturbed)
    (one,) = read_maps("out")
    assert (one.checkpoint, one.benchmark, len(one.samples)) == ("flow-tiny", "flowbench", 2 * LIMIT)
    assert one.subtasks == ("flowbench_action_antonym", "flowbench_object_count")
    (other,) = read_maps("lmms_flow_records")
    assert other.asked == one.asked


def test_a_dry_run_says_what_it_would_cost_and_answers_nothing(env: Environment, tmp_path: Path) -> None:
    arguments = [*ARGUMENTS]
    arguments[arguments.index("pretrained=flow-tiny")] += ",dry_run=true"
    done = run_cli(arguments, env, cwd=tmp_path, program="lmms-flow")
    assert done.returncode == 0, done.stderr[-3000:]
    said = done.stdout + done.stderr
    assert "flowbench_flow_trace_object_count" in said
    assert "FLOPs" in said
    assert not answers(tmp_path)
    assert not list(tmp_path.rglob("*_results.json"))
