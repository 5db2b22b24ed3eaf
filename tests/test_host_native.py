"""Native families through lmms-eval and a loopback hub: TVBench, its leaderboard and a flow map; and refusals."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from lmms_flow.records.journal import read_journal
from tests.support.host import Environment, host_env, run_cli, wait_until
from tests.support.hub import Hub, serve
from tests.support.native import write
from tests.support.native_families import NATIVE, NEEDS, REFUSED
from tests.support.one_after_another import runs
from tests.support.tvbench import REPOSITORY, make_tvbench

pytestmark = pytest.mark.host

ROOT = Path(__file__).parents[1]
TASKS = "tvbench_moving_direction,tvbench_flow_leaderboard,tvbench_flow_map_moving_direction"
EVERY_RUN = ["--tasks", TASKS, "--limit", "1", "--log_samples"]
# model -> the repository that it takes by default, and the family
NAMED = {
    "qwen2_5_vl_flow": ("Qwen/Qwen2.5-VL-7B-Instruct", "qwen2_5_vl"),
    "qwen3_vl_flow": ("Qwen/Qwen3-VL-8B-Instruct", "qwen3_vl"),
    "llava_onevision_flow": ("llava-hf/llava-onevision-qwen2-7b-ov-hf", "llava_onevision"),
    "smolvlm_flow": ("HuggingFaceTB/SmolVLM2-2.2B-Instruct", "smolvlm"),
}
OTHERS = [family for family in NATIVE if family not in [family for _, family in NAMED.values()]]
PAIRS = (
    "qwen2_vl",
    "qwen2_5_vl",
    "qwen3_vl",
    "qwen3_vl_moe",
    "cosmos3_omni",
    "glm4v",
    "glm46v",
    "ernie4_5_vl_moe",
    "exaone4_5",
)


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    with serve(tmp_path_factory.mktemp("hub")) as hub:
        make_tvbench(hub.folder("datasets", REPOSITORY), rows=1)
        yield hub


@pytest.fixture(scope="module")
def env(hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    return host_env(hub, tmp_path_factory.mktemp("home"))


def check_run(folder: Path, family: str, repository: str) -> None:
    """Everything was answered, arms and a map as well, and told by the family's own unit."""
    records = read_journal(folder / "records")
    answered = [record for record in records if record.status == "ok"]
    assert {record.status for record in records} <= {"ok", "skipped"}  # arms whose pathway nobody knows
    assert all(record.checkpoint == repository for record in answered)
    unit = "2 frames" if family in PAIRS else "frame"
    # a single frame merges with none
    assert {record.unit for record in answered if record.num_frames > 1} == {unit}
    assert any(record.flow == "none" for record in answered)
    assert any(record.flow not in ("", "none") for record in answered)
    assert any(record.arrays for record in answered), "the map kept its arrays"
    assert json.loads(next(folder.glob("out/**/*_results.json")).read_text())["results"]


@pytest.mark.parametrize("model", NAMED)
def test_a_model_of_its_own_name(model: str, hub: Hub, env: Environment, tmp_path: Path) -> None:
    repository, family = NAMED[model]
    if family in NEEDS:
        pytest.importorskip(NEEDS[family])
    write(NATIVE[family], hub.folder("models", repository), layers=3)
    run = [
        "--model",
        model,
        "--model_args",
        f"records={tmp_path}/records",
        "--output_path",
        f"{tmp_path}/out",
    ]
    done = run_cli([*run, *EVERY_RUN], env, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    check_run(tmp_path, family, repository)


@pytest.fixture(scope="module")
def others(
    hub: Hub, env: Environment, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[tuple[Path, subprocess.Popen[str]]]:
    """One process that runs all families that are asked for, one after another; each test waits for its own."""
    folder = tmp_path_factory.mktemp("others")
    models, asked_for = {}, [item.name for item in request.session.items]
    for family in OTHERS:
        if f"test_any_other_family[{family}]" in asked_for and find_spec(NEEDS.get(family, "torch")):
            write(NATIVE[family], hub.folder("models", f"org/{family}"), layers=2)
            models[family] = ("hf_video_flow", f"pretrained=org/{family},max_frames=4")
    (folder / "runs.json").write_text(json.dumps(runs(folder, models, EVERY_RUN)))
    command = [sys.executable, "-m", "tests.support.one_after_another", str(folder / "runs.json")]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            command, env=env | {"PYTHONPATH": str(ROOT)}, cwd=folder, stdout=log, stderr=log, text=True
        )
        try:
            yield folder, process
        finally:
            process.kill()
            process.wait()


@pytest.mark.timeout(3600)  # a queue: the last one waits for all before it
@pytest.mark.parametrize("family", OTHERS)
def test_any_other_family(family: str, others: tuple[Path, subprocess.Popen[str]]) -> None:
    if family in NEEDS:
        pytest.importorskip(NEEDS[family])
    folder, process = others
    ended = folder / f"{family}.ended"
    wait_until(ended.exists, process, every=0.2, timeout=3500)
    assert ended.exists(), (folder / "log").read_text()[-2000:]
    assert ended.read_text() == "0", (folder / "log").read_text()[-4000:]
    check_run(folder / family, family, f"org/{family}")


SAID = {
    "qwen3_5": "3 of 4 layers are recurrent (layers 1-3; linear_attn, a Qwen3_5GatedDeltaNet): information passes "
    "through a state that no mask reaches",
    "hy_v4_vl": "chooses its keys itself, in self_attn.indexer, a HYV4VLIndexer: a cut in the attention mask would not "
    "cut it; 4 of 4 layers do (layers 1-4)",
}


@pytest.mark.parametrize("family", SAID)
def test_a_mechanism_that_is_refused_ends_the_run(
    family: str, hub: Hub, env: Environment, tmp_path: Path
) -> None:
    """Exit status 1, one line, before the first sample. In tests/test_refused_families.py are the other ones."""
    pytest.importorskip(f"transformers.models.{family}")
    write(REFUSED[family], hub.folder("models", f"org/{family}"), layers=4)
    run = ["--model", "hf_video_flow", "--tasks", "tvbench_moving_direction", "--limit", "1"]
    attention = "eager" if family == "hy_v4_vl" else "sdpa"  # it has no other
    given = f"pretrained=org/{family},records={tmp_path}/records,attn_implementation={attention}"
    done = run_cli([*run, "--model_args", given], env, cwd=tmp_path)
    assert done.returncode == 1
    assert any(SAID[family] in line for line in done.stderr.splitlines()), done.stderr[-2000:]
    assert not (tmp_path / "records").exists()
