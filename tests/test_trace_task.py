"""Trace tasks: four lines of YAML, the made ones, and what a run of them keeps beside the answers."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lmms_eval.evaluator import simple_evaluate
from lmms_eval.tasks import TaskManager

import lmms_flow
from lmms_flow.assets import flowbench_dir
from lmms_flow.engine import restore, sweep
from lmms_flow.errors import RunError
from lmms_flow.flow.trace_settings import KINDS, TraceSettings
from lmms_flow.harness import plugin
from lmms_flow.harness.arms import BENCHMARKS, TRACES, add_arms, made_config
from lmms_flow.harness.trace_task import TraceTask
from lmms_flow.model_wrappers.llava_vid import LlavaVidFlow
from lmms_flow.records.journal import read_journal
from lmms_flow.records.record import SampleRecord
from lmms_flow.report.maps import read_maps
from lmms_flow.report.page.restoration_section import restoration_section
from lmms_flow.report.restorations import read_restorations
from lmms_flow.report.traces import read_traces
from lmms_flow.trace.lens import layers_within

OURS = "llava_vid_flow"
BASE = "flowbench_object_count"
TRACE = "flowbench_flow_trace_object_count"
QUESTIONS = 2


def load(folder: Path, model: str = OURS, **lines: Any) -> Any:
    body = {"task": "mine", "class": "!function lmms_flow.harness.trace_task.TraceTask", **lines}
    (folder / "mine.yaml").write_text("".join(f"{key}: {value}\n" for key, value in body.items()))
    plugin.make_tasks_known()
    made = TaskManager(include_path=str(folder), include_defaults=False, model_name=model)
    return made.load_task_or_group(["mine"], "chat")


def run(folder: Path, *tasks: str, limit: int = QUESTIONS, **arguments: Any) -> dict[str, Any]:
    plugin.make_tasks_known()
    return simple_evaluate(
        model=LlavaVidFlow(
            **{"pretrained": "flow-tiny", "device": "cpu", "records": str(folder)} | arguments
        ),
        tasks=list(tasks),
        limit=limit,
        task_manager=TaskManager(include_defaults=False, model_name=OURS),
    )


def test_four_lines_make_a_trace_of_a_task_or_of_a_group(tmp_path: Path) -> None:
    (task,) = load(tmp_path, base=BASE, trace="map").values()
    assert isinstance(task, TraceTask)
    wanted = {"lmms_flow": True, "base": BASE, "flow": "none", "trace": {"kinds": "map"}, "protocol": "paper"}
    assert wanted.items() <= task.config.metadata.items()
    settings = "{kinds: [map, attention], knockouts: [cross_frame, 'video:question'], window: 5}"
    ((group, tasks),) = load(tmp_path, base="flowbench", trace=settings).items()
    assert group.group == "mine"
    assert len(tasks) == 5
    trace = {"kinds": ["map", "attention"], "knockouts": ["cross_frame", "video:question"], "window": 5}
    assert all(one.config.metadata["trace"] == trace for one in tasks.values())
    assert all(isinstance(one, TraceTask) for one in tasks.values())


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ({"trace": "map"}, "it has no base; write four lines: task, class, base .* and trace"),
        ({"base": BASE}, "it has no trace; write four lines"),
        ({"base": "flowbench"}, r"it has no flow; write four lines: .* \(a TraceTask: trace\)"),
        ({"base": BASE, "trace": "mpa"}, "there is no kind of trace 'mpa'; did you mean 'map'?"),
        ({"base": "flowbench_object_cuont", "trace": "map"}, "no task 'flowbench_object_cuont'"),
        ({"base": BASE, "trace": "map", "flow": "blind"}, "leave flow 'blind' out"),
        ({"base": BASE, "trace": "{kinds: map, windw: 3}"}, "no setting 'windw'; did you mean 'window'?"),
    ],
)
def test_a_mistake_in_the_four_lines_is_one_line(tmp_path: Path, lines: dict[str, Any], says: str) -> None:
    with pytest.raises(RunError, match=says) as caught:
        load(tmp_path, **lines)
    assert "\n" not in str(caught.value)


def test_each_benchmark_has_its_traces() -> None:
    index: dict[str, dict[str, Any]] = {
        base: {"type": "task", "task": -1, "yaml_path": ""} for base in BENCHMARKS.values()
    }
    add_arms(index, lambda name: {})
    for prefix, base in BENCHMARKS.items():
        for name, trace in TRACES.items():
            config = made_config(index, f"{prefix}_{name}", lambda name: {})
            assert config == {
                "task": f"{prefix}_{name}",
                "base": base,
                "trace": trace,
                "class": TraceTask,
            }
        board = made_config(index, f"{prefix}_leaderboard", lambda name: {})
        assert board is not None
        assert not set(board["task"]) & {f"{prefix}_{name}" for name in TRACES}
    assert set(TRACES) == {*KINDS, "trace", "restoration"}
    assert TraceSettings.from_mapping(TRACES["restoration"]).restores


def test_an_answer_without_its_trace_is_not_scored(tmp_path: Path) -> None:
    (task,) = load(tmp_path, base=BASE, trace="map").values()

    def answered(**changes: Any) -> Any:
        values: dict[str, Any] = {"id": "0", "task": "mine", "doc_id": 0, "status": "ok"}
        values |= {"trace": "{}", "arrays": "arrays/mine/k.safetensors"} | changes
        return task.process_results(task.dataset["test"][0], [["A", SampleRecord(**values).to_json()]])

    assert "accuracy" in answered()
    assert answered(status="error", arrays="")["errors"] == 1
    for changes in ({"trace": ""}, {"arrays": ""}, {"flow": "video:last"}):
        with pytest.raises(RunError, match="keeps a trace of each answer, and the model did not"):
            answered(**changes)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A baseline and all traces of it, run without a break."""
    records = tmp_path_factory.mktemp("undisturbed")
    return records, run(records, BASE, TRACE)


def files_of(records: Path) -> dict[str, bytes]:
    return {str(file.relative_to(records)): file.read_bytes() for file in records.rglob("arrays/*/*")}


def test_a_trace_is_scored_as_its_base(undisturbed: tuple[Path, dict[str, Any]]) -> None:
    _, out = undisturbed
    base, trace = (out["samples"][name] for name in (BASE, TRACE))
    for one, other in zip(base, trace, strict=True):
        assert one["accuracy"] == other["accuracy"]
        assert one["record"]["options"] == other["record"]["options"]
        assert one["record"]["prompt_digest"] == other["record"]["prompt_digest"]
        assert (one["record"]["trace"], one["record"]["arrays"]) == ("", "")
        assert other["record"]["trace"] == TraceSettings().to_text()
    assert out["results"][TRACE]["accuracy,none"] == out["results"][BASE]["accuracy,none"]


def test_the_arrays_are_those_of_the_public_functions(undisturbed: tuple[Path, dict[str, Any]]) -> None:
    records, out = undisturbed
    model = lmms_flow.load("flow-tiny", device="cpu")
    traced = read_traces(records)
    assert len(traced) == QUESTIONS
    lines = (flowbench_dir() / "object_count.jsonl").read_text().splitlines()
    rows = {row["id"]: row for row in map(json.loads, lines)}
    for one in traced:
        arrays = one.arrays()
        doc = out["samples"][TRACE][one.record.doc_id]
        row = rows[one.record.id]
        prompt = model.prompt(
            str(flowbench_dir() / row["video"]),
            row["question"],
            row["candidates"],
            answer="ABCDEFGHIJ".index(row["answer_letter"]),
        )
        about = arrays.about
        assert about["true_letter"] == row["answer_letter"] == doc["target"]
        assert about["num_tokens"] == prompt.layout.num_tokens
        letters = [model.tokens_of_letter(letter) for letter in prompt.letters]
        each = (len(letters), 2)  # a letter alone, and behind a space
        assert [len(tokens) for tokens in letters] == [2] * len(letters)
        with torch.inference_mode():
            result = sweep(
                model,
                prompt.inputs,
                prompt.layout,
                about["knockouts"],
                window=3,
                candidates=[token for tokens in letters for token in tokens],
            )
        values = arrays.values
        np.testing.assert_allclose(
            values["map.probability"], result.probabilities.numpy(), rtol=1e-5, atol=1e-7
        )
        summed = result.candidates.unflatten(-1, each).sum(-1)
        np.testing.assert_allclose(values["map.options"], summed.numpy(), rtol=1e-5, atol=1e-7)
        assert np.array_equal(values["map.prediction"], result.predictions.numpy())
        options = np.array(list(one.record.options.values()))
        np.testing.assert_allclose(values["map.baseline_options"], options, rtol=1e-4, atol=1e-7)
        for name in ("head", "normed"):
            last = values[f"generation_probability.{name}"][-1]
            np.testing.assert_allclose(last, options, rtol=1e-4, atol=1e-7)
        video = prompt.layout.size("video")
        layers = layers_within(model, prompt.layout)
        assert about["lens_layers"] == layers
        assert values["logit_lens.tokens"].shape == (len(layers), video, 5)
        assert values["attention.last"].shape == (12, 1, 8)
        assert values["attention.question.tokens"].shape == (12, video)


def test_nothing_is_traced_twice_and_lost_arrays_are_traced_again(
    undisturbed: tuple[Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = shutil.copytree(undisturbed[0], tmp_path / "records")
    before, walks = files_of(records), []
    counted = "lmms_flow.runner.tracing.sweep"
    monkeypatch.setattr(counted, lambda *a, **k: (walks.append(1), sweep(*a, **k))[1])
    assert run(records, BASE, TRACE)["samples"][TRACE] == undisturbed[1]["samples"][TRACE]
    assert not walks
    lost = sorted(records.rglob("arrays/*/*"))[0]
    lost.write_bytes(lost.read_bytes()[:-4])
    run(records, TRACE)
    assert len(walks) == 1
    assert files_of(records) == before


def test_arguments_are_settings_of_tasks_that_do_not_say_them(tmp_path: Path) -> None:
    run(
        tmp_path,
        "flowbench_flow_map_object_count",
        limit=1,
        trace_window="5",
        trace_style="to_layer",
        trace_knockouts="cross_frame+vq-to-true-opt",
        trace_layers="3-6",
    )
    (one,) = read_maps(tmp_path)
    assert (one.window, one.style, one.centres, one.num_layers) == (5, "to_layer", (3, 4, 5, 6), 12)
    assert one.knockouts == ("cross_frame", "video:stem", "stem:true_option", "video:true_option")


def test_a_restoration_is_that_of_the_clip_played_backwards(tmp_path: Path) -> None:
    """Through the task, beside the public function on two prompts of the same clip."""
    task = "flowbench_flow_restoration_action_antonym"
    out = run(tmp_path, task, limit=1, trace_knockouts="cross_frame+video:question", trace_layers="3-5")
    (one,) = read_restorations(tmp_path)
    row = json.loads((flowbench_dir() / "action_antonym.jsonl").read_text().splitlines()[0])
    asked = str(flowbench_dir() / row["video"]), row["question"], row["candidates"]
    model = lmms_flow.load("flow-tiny", device="cpu")
    clean, corrupt = (model.prompt(*asked, frame_order=order) for order in ("", "reversed"))
    pixels = [name for name in clean.inputs if not torch.equal(clean.inputs[name], corrupt.inputs[name])]
    assert pixels == ["pixel_values_videos"]
    with torch.inference_mode():
        expected = restore(
            model, clean.inputs, corrupt.inputs, clean.layout, one.knockouts, window=3, layers=(3, 4, 5)
        )
    (sample,) = one.samples
    np.testing.assert_allclose(sample.probability, expected.probabilities.numpy(), rtol=1e-4, atol=1e-6)
    assert (sample.clean, sample.corrupt) == pytest.approx((expected.clean, expected.corrupt), rel=1e-4)
    curve = one.curve("cross_frame", among="all")
    assert curve.mean == pytest.approx(100 * (sample.probability[0] - sample.corrupt))
    assert one.lost("all") == pytest.approx(100 * (sample.clean - sample.corrupt))
    assert one.lost("all") > 20, "played backwards, a clip shows the antonym"
    (record,) = (each.record for each in read_traces(tmp_path))
    assert record.shapes["restoration.options"] == (2, 3, len(row["candidates"]))
    assert sample.right is bool(out["samples"][task][0]["accuracy"])
    assert not read_maps(tmp_path)
    section = restoration_section(read_traces(tmp_path), 0, ())
    assert section is not None
    (block,) = section.blocks
    assert [picture.alt.partition(":")[0] for picture in block.pictures] == ["Across frames", "Other edges"]
    lost = one.lost("right" if sample.right else "all")
    assert f"Played backwards, the answer loses {lost:.1f} points" in block.text


def test_one_frame_has_no_order_to_play_backwards(tmp_path: Path) -> None:
    out = run(tmp_path, "flowbench_flow_restoration_object_count", limit=1, num_frames=1, on_error="record")
    (record,) = (each["record"] for each in out["samples"]["flowbench_flow_restoration_object_count"])
    assert (record["status"], record["reason"].endswith("one frame has no order")) == ("error", True)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"trace_style": "centre"}, "did you mean 'center'"),
        ({"trace_how": "restor"}, "did you mean 'restore'"),
        ({"trace_lens_layers": "some"}, "a range of layers|layers"),
        ({"trace_window": "none"}, "a whole number of layers from 1, or auto"),
        ({"trace_knockouts": "video:qestion"}, "did you mean 'question'"),
        ({"trace_windows": "3"}, "no argument 'trace_windows'; did you mean 'trace_window'?"),
    ],
)
def test_a_mistake_in_the_arguments_is_one_line(arguments: dict[str, Any], says: str) -> None:
    from lmms_flow.runner.arguments import read_arguments

    with pytest.raises(RunError, match=says):
        read_arguments(arguments)


def test_a_dry_run_says_the_costs_and_keeps_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    records = tmp_path / "records"
    with pytest.raises(SystemExit) as ended:
        run(records, BASE, "flowbench_flow_map_object_count", dry_run=True)
    assert ended.value.code == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("dry run")]
    plain, traced = sorted(lines[:2], key=lambda line: "trace" in line)
    total = lines[2]
    assert plain.startswith(f"dry run: flow none: {QUESTIONS} questions of {BASE}; one takes ")
    assert "flow none, trace map (13 knockouts)" in traced
    of_plain, of_traced = (
        float(re.findall(r"one takes ([\d.]+) GFLOPs", line)[0]) for line in (plain, traced)
    )
    assert of_traced > 5 * of_plain > 0, "a map costs several prefills"
    assert "GiB" in total
    assert not records.exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"trace_layers": "13"}, "task .*: layer 13 does not exist, the model has layers 1-12"),
        ({"records": "none"}, "keeps a trace beside its records: leave out records=none"),
        ({"flow": "video:last"}, "carries the flow 'none' and --model_args the flow 'video:last'"),
    ],
)
def test_what_can_not_be_traced_ends_the_run_before_it_starts(
    tmp_path: Path, arguments: dict[str, Any], says: str
) -> None:
    with pytest.raises(RunError, match=says):
        run(tmp_path, "flowbench_flow_map_object_count", limit=1, **arguments)
    assert not read_journal(tmp_path)
