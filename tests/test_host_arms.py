"""A user's own arm, four lines over a task that lmms-eval ships, through the real command lines."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from lmms_flow.flow import Flow
from lmms_flow.records.journal import read_journal
from tests.support.checkpoints import paper_llava
from tests.support.host import Environment, host_env, run_cli
from tests.support.hub import Hub

pytestmark = pytest.mark.host

BASE, ARM = "tvbench_action_antonym", "antonyms_without_video"
LIMIT = 3
LAYERS = 32
FOUR_LINES = """\
task: {name}
class: !function lmms_flow.harness.flow_task.FlowTask
base: {base}
flow: {flow}
"""


@dataclass(frozen=True)
class Scored:
    """What lmms-eval wrote of a run, task by task."""

    results: dict[str, dict[str, Any]]
    samples: dict[str, list[dict[str, Any]]]


@pytest.fixture(scope="module")
def env(paper_hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    return host_env(paper_hub, tmp_path_factory.mktemp("home"))


def write_arm(folder: Path, name: str, base: str, flow: str) -> None:
    (folder / f"{name}.yaml").write_text(FOUR_LINES.format(name=name, base=base, flow=flow))


def evaluate(tasks: str, env: Environment, folder: Path, **model_args: str) -> Scored:
    args = [
        "eval",
        "--model",
        "llava_vid_flow",
        "--include_path",
        ".",
        "--tasks",
        tasks,
        "--limit",
        str(LIMIT),
    ]
    args += ["--log_samples", "--output_path", "out"]
    if model_args:
        args += ["--model_args", ",".join(f"{name}={value}" for name, value in model_args.items())]
    done = run_cli(args, env, cwd=folder, program="lmms-flow")
    assert done.returncode == 0, done.stderr[-3000:]
    (results,) = folder.glob("out/**/*_results.json")
    return Scored(
        json.loads(results.read_text())["results"],
        {
            name: [json.loads(line) for line in file.read_text().splitlines()]
            for name in tasks.split(",")
            for file in folder.glob(f"out/**/*_samples_{name}.jsonl")
        },
    )


def test_an_arm_is_scored_as_its_base_and_answered_under_its_flow(env: Environment, tmp_path: Path) -> None:
    write_arm(tmp_path, ARM, BASE, "video:last")
    scored = evaluate(f"{BASE},{ARM}", env, tmp_path)
    base = {
        record.doc_id: record
        for record in read_journal(tmp_path / "lmms_flow_records")
        if record.task == BASE
    }
    assert len(base) == LIMIT
    assert {record.flow for record in base.values()} == {"none"}
    digest = Flow.load("video:last").bind(LAYERS).digest
    for task in (BASE, ARM):
        scores = [sample["tvbench_acc"] for sample in scored.samples[task]]
        assert len(scores) == LIMIT
        assert scored.results[task]["tvbench_acc,none"] == pytest.approx(sum(scores) / LIMIT)
    for sample in scored.samples[ARM]:
        record, full = sample["record"], base[sample["doc_id"]]
        assert (record["status"], record["flow"], record["flow_digest"]) == ("ok", "video:last", digest)
        assert record["prompt_digest"] == full.prompt_digest
        assert record["edges_kept"] < record["edges_total"] == full.edges_kept
        moved = [math.log(record["options"][letter] / full.options[letter]) for letter in full.options]
        assert max(map(abs, moved)) > 0.01, "the options' probabilities are the base's"
    compared = run_cli(["compare", "out"], env, cwd=tmp_path, program="lmms-flow")
    assert compared.returncode == 0, compared.stderr
    assert any(line.startswith("video:last  ") for line in compared.stdout.splitlines())


def test_a_pathway_that_is_not_known_for_the_checkpoint_is_skipped(
    paper_hub: Hub, env: Environment, tmp_path: Path
) -> None:
    """Of a task of lmms-eval's and of one of ours; the arms beside them are scored."""
    paper_llava(paper_hub.folder("models", "somebody/Video-LLaVA-Tuned"), layers=LAYERS)
    write_arm(tmp_path, "antonyms_effective", BASE, "effective")
    skipped = ("antonyms_effective", "flowbench_flow_effective_object_count")
    scored = evaluate(
        ",".join(("flowbench_object_count", *skipped)), env, tmp_path, pretrained="somebody/Video-LLaVA-Tuned"
    )
    for task in skipped:
        assert scored.results[task]["skipped,none"] == LIMIT
        assert scored.results[task]["errors,none"] == 0
        for sample in scored.samples[task]:
            assert sample["record"]["status"] == "skipped"
            assert "somebody/Video-LLaVA-Tuned" in sample["record"]["reason"]
            assert not {"accuracy", "tvbench_acc"} & sample.keys()
    assert all(sample["record"]["status"] == "ok" for sample in scored.samples["flowbench_object_count"])
    compared = run_cli(["compare", "out"], env, cwd=tmp_path, program="lmms-flow")
    assert compared.returncode == 0, compared.stderr
    assert "skipped: " in compared.stdout


def test_a_model_that_applies_no_flow_is_refused(env: Environment, tmp_path: Path) -> None:
    """Else it would be scored as the flow's."""
    write_arm(tmp_path, ARM, BASE, "video:last")
    args = ["eval", "--model", "dummy", "--include_path", ".", "--tasks", ARM, "--output_path", "out"]
    done = run_cli(args, env, cwd=tmp_path, program="lmms-flow")
    assert done.returncode == 1
    assert f"task {ARM} runs under the flow 'video:last', which the model 'dummy' can't apply" in done.stderr
    assert not list(tmp_path.glob("out/**/*_results.json"))
