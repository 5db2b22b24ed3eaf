"""lmms-eval's own cache, `--use_cache`: nothing old is served, and what is unchanged is not run again."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from lmms_eval.evaluator import simple_evaluate
from lmms_eval.tasks import TaskManager
from safetensors.torch import load_file, save_file

from lmms_flow.assets import flow_tiny_dir, flowbench_dir
from lmms_flow.errors import RunError
from lmms_flow.harness import host, plugin
from lmms_flow.runner.answering import Answerer

TASK = "flowbench_object_count"
OURS = "llava_vid_flow"


@pytest.fixture
def answered(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many samples the model itself was asked for, call by call."""
    calls: list[int] = []
    own = Answerer.answer

    def counted(self: Any, samples: Any) -> Any:
        calls.append(len(samples))
        return own(self, samples)

    monkeypatch.setattr(Answerer, "answer", counted)
    return calls


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plugin.make_tasks_known()
    monkeypatch.chdir(tmp_path)


def evaluate(
    cache: str | None = "cache", *, task: str = TASK, include: str | None = None, **arguments: str
) -> Any:
    """One run as the command line starts it; records=none, so that only the host's cache could answer."""
    given = {"pretrained": "flow-tiny", "records": "none", "device": "cpu", **arguments}
    return simple_evaluate(
        model=OURS,
        model_args=",".join(f"{name}={value}" for name, value in given.items()),
        tasks=[task],
        limit=3,
        use_cache=cache,
        task_manager=TaskManager(include_path=include, include_defaults=False, model_name=OURS),
    )


def said(out: Any) -> list[Any]:
    """What was answered under which flow, without what a clock says."""
    (samples,) = out["samples"].values()
    records = [dict(sample["record"]) for sample in samples]
    for record in records:
        record.pop("milliseconds"), record.pop("shared_milliseconds")
    return records


def write_flow(rule: str) -> None:
    Path("cut.yaml").write_text(json.dumps({"name": "cut", "cut": [rule]}))


def test_what_is_unchanged_is_not_run_again(answered: list[int]) -> None:
    first = said(evaluate(flow="video:last"))
    assert sum(answered) == 3
    assert said(evaluate(flow="video:last")) == first
    assert sum(answered) == 3, "the second run was served"


def test_another_flow_in_the_arguments_is_run(answered: list[int]) -> None:
    for flow in ("none", "video:last", "none"):
        assert {record["flow"] for record in said(evaluate(flow=flow))} == {flow}
    assert sum(answered) == 6


def test_a_flow_file_needs_its_digest_in_the_arguments(answered: list[int]) -> None:
    write_flow("video:last")
    with pytest.raises(RunError, match="add flow_digest=[0-9a-f]{12} to --model_args") as error:
        evaluate(flow="cut.yaml")
    digest = str(error.value).partition("flow_digest=")[2][:12]
    assert {record["flow_digest"] for record in said(evaluate(flow="cut.yaml", flow_digest=digest))} == {
        digest
    }
    write_flow("video:question")
    with pytest.raises(RunError, match=f"flow_digest={digest} was given: the flow is not the one"):
        evaluate(flow="cut.yaml", flow_digest=digest)
    assert sum(answered) == 3
    fresh = said(evaluate(None, flow="cut.yaml"))
    assert {record["flow_digest"] for record in fresh} != {digest}


def test_an_edited_flow_file_of_a_task_is_run_again(answered: list[int], tmp_path: Path) -> None:
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "mine.yaml").write_text(
        "task: mine\nclass: !function lmms_flow.harness.flow_task.FlowTask\n"
        f"base: {TASK}\nflow: {tmp_path}/cut.yaml\n"
    )
    digests = []
    for rule in ("video:last", "video:last", "video:question"):
        write_flow(rule)
        digests.append(
            {record["flow_digest"] for record in said(evaluate(task="mine", include=f"{tmp_path}/tasks"))}
        )
    assert digests[0] == digests[1] != digests[2]
    assert sum(answered) == 6, "run, served, run"


def test_failed_answers_are_not_to_be_kept(answered: list[int]) -> None:
    with pytest.raises(RunError, match="would keep the empty answers"):
        evaluate(on_error="record")
    assert len(said(evaluate(None, on_error="record"))) == 3


def test_a_flow_in_the_task_and_another_in_the_arguments_is_refused(answered: list[int]) -> None:
    arm = "flowbench_flow_blind_object_count"
    with pytest.raises(
        RunError, match=f"task {arm} carries the flow 'blind' and --model_args the flow 'sham'"
    ):
        evaluate(None, task=arm, flow="sham")
    assert not answered
    assert {record["flow"] for record in said(evaluate(None, task=arm, flow="blind"))} == {"blind"}


def test_empty_answers_to_missing_clips_are_not_kept(answered: list[int], tmp_path: Path) -> None:
    rows = (flowbench_dir() / "object_count.jsonl").read_text().splitlines()[:3]
    lost = json.dumps(json.loads(rows[1]) | {"video": "clips/not-handed-out.mp4"})
    (tmp_path / "rows.jsonl").write_text("\n".join([rows[0], lost, rows[2]]) + "\n")
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "mine.yaml").write_text(
        "task: mine\nclass: !function lmms_flow.harness.flow_task.FlowTask\n"
        f"base: {TASK}\nflow: video:last\nmetadata: {{missing_clips: skip}}\n"
        f"dataset_kwargs: {{data_files: {{test: {tmp_path}/rows.jsonl}}}}\n"
    )
    include = f"{tmp_path}/tasks"
    with pytest.raises(RunError, match="1 clips are missing, and --use_cache would keep"):
        evaluate(task="mine", include=include)
    records = said(evaluate(None, task="mine", include=include))
    assert [record["status"] for record in records] == ["ok", "skipped", "ok"]


# What the cache itself can't know


def test_weights_that_are_saved_over_the_same_folder(answered: list[int], tmp_path: Path) -> None:
    """Same path, size and time: the cache sees the same command line."""
    folder = tmp_path / "model"
    shutil.copytree(flow_tiny_dir(), folder)
    file = folder / "model.safetensors"
    before = file.stat()
    first = said(evaluate(pretrained=str(folder)))
    assert said(evaluate(pretrained=str(folder))) == first
    assert sum(answered) == 3, "served"
    weights = load_file(file)
    for name in weights:
        if name.endswith("self_attn.v_proj.weight") and "language_model" in name:
            weights[name][32:] = 0
    save_file(weights, file, metadata={"format": "pt"})
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    edited = said(evaluate(pretrained=str(folder)))
    assert sum(answered) == 6, "run again"
    assert edited == said(evaluate(None, pretrained=str(folder)))
    assert edited != first


def test_a_clip_that_is_put_in_the_place_of_another(answered: list[int], tmp_path: Path) -> None:
    clips = sorted((flowbench_dir() / "clips").glob("*.mp4"))[:2]
    clip = tmp_path / "clip.mp4"
    row = json.loads((flowbench_dir() / "object_count.jsonl").read_text().splitlines()[0])
    (tmp_path / "rows.jsonl").write_text(json.dumps(row | {"video": str(clip)}) + "\n")
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "mine.yaml").write_text(
        "task: mine\nclass: !function lmms_flow.harness.flow_task.FlowTask\n"
        f"base: {TASK}\nflow: video:last\ndataset_kwargs: {{data_files: {{test: {tmp_path}/rows.jsonl}}}}\n"
    )
    size = max(one.stat().st_size for one in clips) + 8
    seen = []
    for source in (clips[0], clips[0], clips[1]):
        content = source.read_bytes()
        unused = (size - len(content)).to_bytes(
            4, "big"
        ) + b"free"  # an empty box, so that both are of one size
        clip.write_bytes((content + unused).ljust(size, b"\0"))
        os.utime(clip, (1_700_000_000, 1_700_000_000))
        seen.append(said(evaluate(task="mine", include=f"{tmp_path}/tasks")))
        seen[-1] = [record["options"] for record in seen[-1]]
    assert sum(answered) == 2, "run, served, run"
    assert seen[0] == seen[1] != seen[2]


def test_a_model_without_keys_of_its_own_is_left_alone() -> None:
    """The cache of another model, after one of ours has told it keys."""
    host.teach_cache("cache_keys")
    host.teach_cache("cache_keys")
    cache = SimpleNamespace()
    module = sys.modules[host.CACHE_KEY.module]
    parts = {"request_type": "generate_until", "task_name": "t", "doc_id": 0, "gen_kwargs": {}}
    plain = module.compute_cache_key(**parts)
    request = SimpleNamespace(task_name="t", doc_id=0, idx=0)
    seen: list[str] = []
    lm = SimpleNamespace(cache_keys=lambda requests: seen.append("asked") or {("t", 0, 0): "ours"})
    with pytest.raises(AttributeError):  # this is no cache
        module.ResponseCache.execute(cache, lm, "generate_until", [request])
    assert seen == ["asked"]
    assert module.compute_cache_key(**parts) == plain, "nothing stays behind"
