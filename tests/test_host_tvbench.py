"""lmms-eval's stock TVBench, word for word, on the paper's 7B checkpoint by its name (a tiny one, from the hub)."""

from __future__ import annotations

import json
import math
import subprocess
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from lmms_flow.flow import Flow
from lmms_flow.records.journal import read_journal
from lmms_flow.records.record import SampleRecord
from tests.conftest import PAPER_7B
from tests.support.host import host_env, run_cli
from tests.support.hub import Hub
from tests.support.tvbench import QUESTIONS

pytestmark = pytest.mark.host

LIMIT = 2
# As the user writes it, and what it means in this checkpoint.
ARMS = {"none": "none", "effective": "effective-llava-next-7b", "cross_frame@first_half": "cross_frame@1-16"}


@dataclass(frozen=True)
class Arm:
    """One finished run of the command line and what it left behind."""

    done: subprocess.CompletedProcess[str]
    results: dict[str, Any]
    samples: list[Path]
    records: dict[tuple[str, int], SampleRecord]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the runs download, kept between them as on a user's machine."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def asked_before(paper_hub: Hub) -> Counter[str]:
    """What other tests had asked the hub for."""
    return Counter(paper_hub.counts)


@pytest.fixture(scope="module")
def arms(
    paper_hub: Hub, asked_before: Counter[str], home: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Arm]:
    return {flow: _run(flow, paper_hub, home, tmp_path_factory.mktemp("run")) for flow in ARMS}


def _run(flow: str, hub: Hub, home: Path, folder: Path) -> Arm:
    """The baseline as a user first types it: the checkpoint, the flow and the folder of the records by default."""
    args = ["--model", "llava_vid_flow", "--tasks", "tvbench", "--limit", str(LIMIT)]
    args += ["--log_samples", "--output_path", f"{folder}/out"]
    records = folder / "lmms_flow_records"
    if flow != "none":
        records = folder / "records"
        args += ["--model_args", f"flow={flow},records={records}"]
    done = run_cli(args, host_env(hub, home), cwd=folder)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    results = list(folder.glob("out/**/*_results.json"))
    assert len(results) == 1, done.stdout[-3000:] + done.stderr[-3000:]
    return Arm(
        done=done,
        results=json.loads(results[0].read_text())["results"],
        samples=sorted(folder.glob("out/**/*_samples_*.jsonl")),
        records={(record.task, record.doc_id): record for record in read_journal(records)},
    )


@pytest.mark.parametrize("flow", ARMS)
def test_every_sub_task_has_a_score(arms: dict[str, Arm], flow: str) -> None:
    arm = arms[flow]
    assert {f"tvbench_{name}" for name in QUESTIONS} <= set(arm.results)
    for name in QUESTIONS:
        assert 0 <= arm.results[f"tvbench_{name}"]["tvbench_acc,none"] <= 1
    assert len(arm.samples) == len(QUESTIONS)
    assert all(len(file.read_text().splitlines()) == LIMIT for file in arm.samples)


@pytest.mark.parametrize("flow", ARMS)
def test_records_name_the_flow(arms: dict[str, Arm], flow: str) -> None:
    arm = arms[flow]
    assert set(arm.records) == {(f"tvbench_{name}", row) for name in QUESTIONS for row in range(LIMIT)}
    digest = Flow.load(ARMS[flow]).bind(32).digest
    for record in arm.records.values():
        assert (record.status, record.reason) == ("ok", "")
        assert (record.flow, record.flow_digest) == (flow, digest)
        assert len(record.frames) == 8


@pytest.mark.parametrize("flow", ARMS)
def test_option_letters_have_probabilities(arms: dict[str, Arm], flow: str) -> None:
    assert len(arms[flow].records) >= len(QUESTIONS)
    for (task, _), record in arms[flow].records.items():
        candidates = QUESTIONS[task.removeprefix("tvbench_")][1]
        assert list(record.options) == list("ABCD"[: len(candidates)])
        assert all(0 < value < 1 for value in record.options.values())
        assert sum(record.options.values()) <= 1.0001


@pytest.mark.parametrize("flow", [flow for flow in ARMS if flow != "none"])
def test_the_cut_changes_the_answers_probabilities(arms: dict[str, Arm], flow: str) -> None:
    """A model that ignored the mask would score the baseline under the flow's name."""
    assert len(arms[flow].records) >= len(QUESTIONS)
    for sample, record in arms[flow].records.items():
        assert record.edges_kept is not None
        assert record.edges_total is not None
        assert 0 < record.edges_kept < record.edges_total
        baseline = arms["none"].records[sample].options
        moved = max(abs(math.log(record.options[letter] / baseline[letter])) for letter in baseline)
        assert moved > 0.01, f"{sample}: the options' probabilities are the baseline's"


def test_the_default_checkpoint_was_downloaded_once(
    arms: dict[str, Arm], asked_before: Counter[str], paper_hub: Hub
) -> None:
    asked = Counter(paper_hub.counts) - asked_before
    shards = {
        name: n for name, n in asked.items() if name.startswith("GET ") and name.endswith(".safetensors")
    }
    assert shards == {
        f"GET models/{PAPER_7B}/model-{shard:05d}-of-00003.safetensors": 1 for shard in (1, 2, 3)
    }
