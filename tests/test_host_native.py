"""Native families through the real command line and the loopback hub: TVBench, its leaderboard and a flow map."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from lmms_flow.records.journal import read_journal
from tests.support.host import host_env, run_cli
from tests.support.hub import Hub, serve
from tests.support.native import write
from tests.support.native_families import NATIVE, REFUSED
from tests.support.tvbench import REPOSITORY, make_tvbench

pytestmark = pytest.mark.host

TASKS = "tvbench_moving_direction,tvbench_flow_leaderboard,tvbench_flow_map_moving_direction"
# model -> the repository that it takes by default, the family, and the unit of cross_frame
NAMED = {
    "qwen2_5_vl_flow": ("Qwen/Qwen2.5-VL-7B-Instruct", "qwen2_5_vl", "2 frames"),
    "qwen3_vl_flow": ("Qwen/Qwen3-VL-8B-Instruct", "qwen3_vl", "2 frames"),
    "llava_onevision_flow": ("llava-hf/llava-onevision-qwen2-7b-ov-hf", "llava_onevision", "frame"),
    "hf_video_flow": ("org/molmo2", "molmo2", "frame"),
}


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    with serve(tmp_path_factory.mktemp("hub")) as hub:
        make_tvbench(hub.folder("datasets", REPOSITORY), rows=1)
        for repository, family, _ in NAMED.values():
            write(NATIVE[family], hub.folder("models", repository), layers=3)
        yield hub


@pytest.mark.parametrize("model", NAMED)
def test_benchmark_leaderboard_and_map(model: str, hub: Hub, tmp_path: Path) -> None:
    repository, _, unit = NAMED[model]
    given = f"records={tmp_path}/records"
    if model == "hf_video_flow":
        given += f",pretrained={repository}"
    run = ["--model", model, "--model_args", given, "--tasks", TASKS, "--limit", "1"]
    run += ["--log_samples", "--output_path", f"{tmp_path}/out"]
    done = run_cli(run, host_env(hub, tmp_path / "home"), cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    records = read_journal(tmp_path / "records")
    answered = [record for record in records if record.status == "ok"]
    assert {record.status for record in records} <= {"ok", "skipped"}  # arms whose pathway nobody knows
    assert all(record.checkpoint == repository for record in answered)
    assert all(
        record.unit == unit for record in answered if record.num_frames > 1
    )  # a single frame merges with none
    assert any(record.flow == "none" for record in answered)
    assert any(record.flow not in ("", "none") for record in answered)
    assert any(record.arrays for record in answered), "the map kept its arrays"
    assert json.loads(next(tmp_path.glob("out/**/*_results.json")).read_text())["results"]


def test_a_mechanism_that_is_refused_ends_the_run(hub: Hub, tmp_path: Path) -> None:
    """Exit status 1, one line, before the first sample."""
    write(REFUSED["qwen3_5"], hub.folder("models", "org/recurrent"), layers=4)
    run = ["--model", "hf_video_flow", "--tasks", "tvbench_moving_direction", "--limit", "1"]
    run += ["--model_args", f"pretrained=org/recurrent,flow=video:last,records={tmp_path}/records"]
    done = run_cli(run, host_env(hub, tmp_path / "home"), cwd=tmp_path)
    assert done.returncode == 1
    told = [line for line in done.stderr.splitlines() if "layers are recurrent" in line]
    assert "3 of 4 layers are recurrent (layers 1-3; linear_attn, a Qwen3_5GatedDeltaNet)" in told[-1]
    assert "information passes through a state that no mask reaches" in told[-1]
    assert not (tmp_path / "records").exists()
