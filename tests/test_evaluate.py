"""`lmms-flow eval`: the exit status says what lmms-eval's own, always 0, does not."""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import pytest

from lmms_flow.errors import RunError
from lmms_flow.harness import loop
from lmms_flow.harness.evaluate import main
from lmms_flow.harness.loop import RequestLoop
from lmms_flow.harness.sample import Outcome, Sample
from lmms_flow.inputs.sampling import midpoints
from lmms_flow.inputs.video import read_frames
from lmms_flow.records.journal import Journal, read_journal
from lmms_flow.tasks.flowbench import rows as flowbench
from tests.support.flowbench import made_flowbench

pytestmark = pytest.mark.timeout(300)

# Puts a function in the place of the host's evaluation.
Evaluation = Callable[[Callable[..., Any]], None]


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The host's command line; it need not read its thousand own tasks."""
    from lmms_eval import __main__ as host

    monkeypatch.setattr(host, "TaskManager", functools.partial(host.TaskManager, include_defaults=False))
    return host


@pytest.fixture
def evaluation(host: Any, monkeypatch: pytest.MonkeyPatch) -> Evaluation:
    """Puts a function in the place of the host's evaluation, behind its real command line."""

    def replace(function: Callable[..., Any]) -> None:
        monkeypatch.setattr(host, "cli_evaluate_single", function)
        monkeypatch.setattr(host, "make_table", lambda *_: "")

    return replace


Run = Callable[..., int]
RUN = ["--model", "dummy", "--tasks", "flowbench"]


def result(task: str = "flowbench_object_count", **metrics: object) -> tuple[dict[str, Any], None]:
    named = {f"{name},none": value for name, value in metrics.items()}
    return {"configs": {task: {}}, "results": {task: {"alias": task, **named}}}, None


def scored(**changes: Any) -> tuple[dict[str, Any], None]:
    return result(**{"accuracy": 0.5, "errors": 0, "unreadable": 0, **changes})


def said(capfd: pytest.CaptureFixture[str]) -> str:
    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("lmms-flow eval: ")]
    return "\n".join(lines)


def test_a_run_that_worked_is_status_0(evaluation: Evaluation, capfd: pytest.CaptureFixture[str]) -> None:
    evaluation(lambda args: scored())
    assert main(RUN) == 0
    assert said(capfd) == ""


def test_the_word_eval_may_be_repeated(evaluation: Evaluation) -> None:
    evaluation(lambda args: scored())
    assert main(["eval", *RUN]) == 0


def test_everything_else_goes_to_the_host(evaluation: Evaluation) -> None:
    seen = []
    evaluation(lambda args: (seen.append(args), scored())[1])
    argv = list(sys.argv)
    assert main([*RUN, "--model_args", "flow=video:last,num_frames=4", "--limit", "3", "--allow-errors"]) == 0
    assert (seen[0].model_args, seen[0].limit) == ("flow=video:last,num_frames=4", 3)
    assert sys.argv == argv


@pytest.mark.parametrize(
    ("given", "handed_on"),
    [
        ([], "dry_run=true"),
        (["--model_args", "num_frames=4"], "num_frames=4,dry_run=true"),
        (["--model_args=num_frames=4"], "num_frames=4,dry_run=true"),
    ],
)
def test_a_dry_run_is_an_argument_of_the_model(
    evaluation: Evaluation, given: list[str], handed_on: str
) -> None:
    seen: list[Any] = []
    evaluation(lambda args: (seen.append(args), scored())[1])
    assert main(["--dry-run", *RUN, *given]) == 0
    assert seen[0].model_args == handed_on


def test_an_exception_is_status_1_and_one_line(
    evaluation: Evaluation, capfd: pytest.CaptureFixture[str]
) -> None:
    def fails(args: Any) -> None:
        raise OSError("the data set is gone\nfor good")

    evaluation(fails)
    assert main(RUN) == 1
    assert said(capfd) == "lmms-flow eval: OSError: the data set is gone for good"


def test_the_exception_behind_retries_is_told(
    evaluation: Evaluation, capfd: pytest.CaptureFixture[str]
) -> None:
    from tenacity import retry, stop_after_attempt

    @retry(stop=stop_after_attempt(1))
    def fails(args: Any) -> None:
        raise FileNotFoundError("flowbench is not installed")

    evaluation(fails)
    assert main(RUN) == 1
    assert said(capfd) == "lmms-flow eval: FileNotFoundError: flowbench is not installed"


def test_an_exception_under_debug_is_the_same(
    evaluation: Evaluation, capfd: pytest.CaptureFixture[str]
) -> None:
    def fails(args: Any) -> None:
        raise KeyError("question")

    evaluation(fails)
    assert main([*RUN, "--verbosity", "DEBUG"]) == 1
    assert said(capfd) == "lmms-flow eval: KeyError: 'question'"


def test_a_sample_that_ends_the_run_is_status_1(
    evaluation: Evaluation, capfd: pytest.CaptureFixture[str]
) -> None:
    def fails(args: Any) -> None:
        raise RunError("task x, document 3: the video is missing: /clip.mp4")

    evaluation(fails)
    assert main(RUN) == 1
    assert "lmms_flow: task x, document 3: the video is missing: /clip.mp4" in capfd.readouterr().err


@pytest.mark.parametrize("status", [1, 3])
def test_an_exit_status_passes_through(evaluation: Evaluation, status: Any) -> None:
    evaluation(lambda args: sys.exit(status))
    assert main(RUN) == status


def test_results_without_a_score_are_status_1(
    evaluation: Evaluation, capfd: pytest.CaptureFixture[str]
) -> None:
    without: list[dict[str, Any]] = [
        {},
        {"accuracy": []},
        {"score": float("nan")},
        {"errors": 0, "unreadable": 0},
    ]
    for metrics in without:
        evaluation(lambda args, metrics=metrics: result(**metrics))
        assert main(RUN) == 1, metrics
        assert said(capfd) == "lmms-flow eval: task flowbench_object_count has no scored sample"


def test_no_results_are_status_1(evaluation: Evaluation, capfd: pytest.CaptureFixture[str]) -> None:
    evaluation(lambda args: (None, None))
    assert main(RUN) == 1
    assert "no results" in said(capfd)


def test_failed_samples_are_status_1_unless_allowed(
    evaluation: Evaluation, capfd: pytest.CaptureFixture[str]
) -> None:
    evaluation(lambda args: scored(errors=2))
    assert main(RUN) == 1
    assert "2 of the samples failed (flowbench_object_count: 2)" in said(capfd)
    assert main([*RUN, "--allow-errors"]) == 0


def test_failed_samples_of_stock_tasks_are_counted_too(
    evaluation: Evaluation, capfd: pytest.CaptureFixture[str]
) -> None:
    def stock(args: Any) -> Any:
        loop.failures["tvbench_object_count"] += 3
        return result("tvbench_object_count", score=0.25)

    evaluation(stock)
    loop.failures["a run before this one"] += 1
    assert main(RUN) == 1
    assert "3 of the samples failed (tvbench_object_count: 3)" in said(capfd)
    assert main([*RUN, "--allow-errors"]) == 0
    loop.failures.clear()


def test_results_that_could_not_be_written_are_status_1(
    evaluation: Evaluation, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def writes(args: Any) -> Any:
        (Path(args.output_path) / "1_results.json").write_text("{}")
        return scored()

    evaluation(writes)
    assert main([*RUN, "--output_path", str(tmp_path)]) == 0
    evaluation(lambda args: scored())
    assert main([*RUN, "--output_path", str(tmp_path)]) == 1
    assert f"could not be written to {tmp_path}" in said(capfd)


def test_a_command_line_without_a_task_is_status_1(host: Any, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["--model", "dummy"]) == 1
    assert "--tasks is missing" in said(capfd)


def test_a_wrong_command_line_is_status_2(capfd: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert main(["--no-such-argument"]) == 2
    assert main(["--help"]) == 0
    assert "--allow-errors" in capfd.readouterr().out


def test_a_task_that_there_is_not(host: Any, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["--model", "dummy", "--tasks", "flowbench_object_cuont"]) == 1
    assert said(capfd) == (
        "lmms-flow eval: there is no task 'flowbench_object_cuont'; did you mean 'flowbench_object_count'?"
    )


def test_a_model_that_there_is_not(host: Any, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["--model", "llava_vid_flwo", "--tasks", "flowbench_object_count"]) == 1
    assert said(capfd) == "lmms-flow eval: there is no model 'llava_vid_flwo'; did you mean 'llava_vid_flow'?"


def test_a_stock_model_runs_our_tasks(
    host: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from lmms_eval.api import task

    made_flowbench(tmp_path / "flowbench", rows=2)
    monkeypatch.setattr(flowbench.assets, "flowbench_dir", lambda: tmp_path / "flowbench")
    monkeypatch.setenv("LMMS_EVAL_DATASETS_CACHE", str(tmp_path / "cache"))
    task._resolve_hf_datasets_cache_dir.cache_clear()
    try:
        assert main(["--model", "dummy", "--model_args", "response=B", "--tasks", "flowbench"]) == 0
    finally:
        task._resolve_hf_datasets_cache_dir.cache_clear()
    table = capfd.readouterr().out
    assert "flowbench_moving_direction" in table
    accuracy = [line for line in table.splitlines() if "accuracy" in line]
    assert len(accuracy) == 7, "five families, and the group twice"
    assert all("1.0" in line or " 1" in line for line in accuracy)


def fake_flow_class() -> type[Any]:
    """A chat model of ours without weights: it reads the frames and answers B."""
    from lmms_eval.api.model import lmms

    class FakeFlow(lmms):  # type: ignore[misc]
        is_simple = False

        def __init__(
            self, on_error: Literal["raise", "record"] = "raise", records: Any = None, **_: Any
        ) -> None:
            super().__init__()
            self.on_error, self.records = on_error, records

        def generate_until(self, requests: list[Any]) -> list[Any]:
            journal = Journal(self.records)
            answer_loop = RequestLoop(
                key=lambda s: f"{s.task}-{s.doc_id}",
                answer=self.answer,
                journal=journal,
                on_error=self.on_error,
                fields=lambda task, metadata, sample: {"flow": "video:last", "flow_digest": "d1"},
            )
            return answer_loop.run(requests, self.task_dict)

        def answer(self, samples: Sequence[Sample]) -> list[Outcome]:
            frames = read_frames(samples[0].videos()[0]["url"], 8)
            return [Outcome.ok("B", frames=frames.indices, options={"A": 0.1, "B": 0.9})]

        def loglikelihood(self, requests: list[Any]) -> None:
            raise NotImplementedError

        def generate_until_multi_round(self, requests: list[Any]) -> None:
            raise NotImplementedError

    return FakeFlow


@pytest.fixture
def fake_flow(host: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """Runs `main` with that model on a made flowbench of which one clip is missing."""
    from lmms_eval import models
    from lmms_eval.api import task

    made_flowbench(tmp_path / "flowbench")
    (tmp_path / "flowbench/clips/object_count-1.mp4").unlink()
    monkeypatch.setattr(flowbench.assets, "flowbench_dir", lambda: tmp_path / "flowbench")
    monkeypatch.setenv("LMMS_EVAL_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(models, "get_model", lambda *_: fake_flow_class())
    task._resolve_hf_datasets_cache_dir.cache_clear()
    output = ["--output_path", str(tmp_path / "out"), "--log_samples"]
    base = ["--model", "llava_vid_flow", "--tasks", "flowbench_object_count", *output, "--model_args"]
    yield lambda args, *more: main([*base, f"records={tmp_path / 'journal'},{args}", *more])
    task._resolve_hf_datasets_cache_dir.cache_clear()


def test_a_missing_video_ends_the_run_with_its_name(
    fake_flow: Run, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert fake_flow("on_error=raise") == 1
    line = capfd.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("lmms_flow: task flowbench_object_count, document 1: the video is missing: ")
    assert str(tmp_path / "flowbench/clips/object_count-1.mp4") in line


def test_a_missing_video_is_recorded_and_no_wrong_answer(
    fake_flow: Run, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert fake_flow("on_error=record") == 1
    assert "1 of the samples failed (flowbench_object_count: 1)" in said(capfd)
    (result_file,) = (tmp_path / "out").rglob("*_results.json")
    results = json.loads(result_file.read_text())["results"]["flowbench_object_count"]
    assert results["accuracy,none"] == 1.0, "two answered, both right"
    assert results["errors,none"] == 1
    (log_file,) = (tmp_path / "out").rglob("*_samples_*.jsonl")
    samples = [json.loads(line) for line in log_file.read_text().splitlines()]
    assert [sample["record"]["status"] for sample in samples] == ["ok", "error", "ok"]
    assert [sample.get("accuracy") for sample in samples] == [1.0, None, 1.0]
    assert samples[0]["record"]["flow_digest"] == "d1"
    assert samples[0]["record"]["options"] == {"A": 0.1, "B": 0.9}
    assert samples[0]["record"]["frames"] == list(midpoints(0, 9, 8))
    assert "the video is missing" in samples[1]["record"]["reason"]


def test_errors_may_be_allowed_and_the_journal_serves_the_rest(
    fake_flow: Run, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert fake_flow("on_error=record", "--allow-errors") == 0
    assert fake_flow("on_error=record", "--allow-errors") == 0
    assert "2 of 3 answers are from the journal" in capfd.readouterr().out
    statuses = [record.status for record in read_journal(tmp_path / "journal")]
    assert statuses == ["ok", "error", "ok", "error"], "what failed is tried again, what is answered is not"
