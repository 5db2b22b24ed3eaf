"""The paper's other two families by their repository's name, through the real command line and the loopback hub."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lmms_flow.records.journal import read_journal
from tests.support.checkpoints_internvl import internvl_chat
from tests.support.checkpoints_videollama3 import videollama3
from tests.support.host import host_env, run_cli
from tests.support.hub import Hub

pytestmark = pytest.mark.host

TASK = "flowbench_moving_direction"


@pytest.mark.parametrize(
    ("model", "repository", "make", "layers", "preset", "frames"),
    [
        (
            "internvl_flow",
            "byminji/Mini-InternVL-4B-Video-FT",
            internvl_chat,
            32,
            "effective-mini-internvl-4b",
            "midpoints",
        ),
        (
            "videollama3_flow",
            "DAMO-NLP-SG/VideoLLaMA3-7B",
            videollama3,
            28,
            "effective-videollama3-7b",
            "first to last",
        ),
    ],
)
def test_the_default_checkpoint_and_its_pathway(
    model: str,
    repository: str,
    make: Callable[..., Any],
    layers: int,
    preset: str,
    frames: str,
    hub: Hub,
    tmp_path: Path,
) -> None:
    """No code of the repository is asked for, though its files name some."""
    folder = hub.folder("models", repository)
    make(folder, layers=layers, shards=3)
    run = ["--model", model, "--model_args", f"flow=effective,engine=sparse,records={tmp_path}/records"]
    run += ["--tasks", TASK, "--limit", "2", "--log_samples", "--output_path", f"{tmp_path}/out"]
    done = run_cli(run, host_env(hub, tmp_path / "home"), cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    records = read_journal(tmp_path / "records")
    assert [record.status for record in records] == ["ok", "ok"]
    assert {(record.flow_name, record.checkpoint) for record in records} == {(preset, repository)}
    assert all((record.frames[0] == 0) == (frames == "first to last") for record in records)
    assert all(len(record.frames) == 8 and len(record.options) >= 2 for record in records)
    (log,) = tmp_path.glob(f"out/**/*_samples_{TASK}.jsonl")
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    ending = {"internvl_flow": "Only give the best option.", "videollama3_flow": "only give the best option."}
    assert all(ending[model] in line["input"] for line in lines)
    assert not [name for name in hub.counts if name.endswith(".py")]
