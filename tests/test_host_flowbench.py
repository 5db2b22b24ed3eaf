"""Single arms through the real command line: what is noticed, and what is refused in one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lmms_flow.records.journal import read_journal
from tests.support.host import host_env, run_cli
from tests.support.hub import Hub

pytestmark = pytest.mark.host

TASK = "flowbench_moving_direction"


def arguments(folder: Path, flow: str, limit: int) -> list[str]:
    model_args = f"pretrained=flow-tiny,flow={flow},records={folder}/records"
    run = ["--model", "llava_vid_flow", "--model_args", model_args, "--tasks", TASK, "--limit", str(limit)]
    return [*run, "--log_samples", "--output_path", f"{folder}/out"]


@pytest.fixture
def env(hub: Hub, tmp_path: Path) -> dict[str, str]:
    return host_env(hub, tmp_path / "home")


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
