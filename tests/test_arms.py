"""Arms as tasks: their names, what they are made of, and that they share what they can."""

from __future__ import annotations

import json
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from lmms_eval.tasks import TaskManager

from lmms_flow.assets import flowbench_dir
from lmms_flow.errors import RunError
from lmms_flow.harness import plugin
from lmms_flow.harness.arms import BENCHMARKS, add_arms, arms_of, leaves, made_config, sub_task
from lmms_flow.harness.flow_task import FlowTask
from lmms_flow.records.record import SampleRecord

OURS = "llava_vid_flow"


@pytest.fixture(scope="module")
def manager() -> TaskManager:
    plugin.make_tasks_known()
    return TaskManager(model_name=OURS)


def yaml_task(folder: Path, **lines: Any) -> str:
    """Four lines that a user writes, as a file; returns the folder, for include_path."""
    body = {"task": "mine", "class": "!function lmms_flow.harness.flow_task.FlowTask", **lines}
    (folder / "mine.yaml").write_text("".join(f"{key}: {value}\n" for key, value in body.items()))
    return str(folder)


def load(name: str, folder: str | None = None, model: str = OURS) -> Any:
    plugin.make_tasks_known()
    made = TaskManager(include_path=folder, include_defaults=False, model_name=model)
    return made.load_task_or_group([name], "chat")


def test_each_benchmark_has_its_arms_and_a_leaderboard(manager: TaskManager) -> None:
    for prefix, base in BENCHMARKS.items():
        assert base in manager.all_tasks
        names = {f"{prefix}_{arm.name}" for arm in arms_of(prefix)}
        assert names <= set(manager.all_tasks)
        board = manager._get_config(f"{prefix}_leaderboard")
        assert board["task"][0] == base
        assert set(board["task"][1:]) == names
        assert (f"{prefix}_random_paper" in names) == (prefix != "flowbench_flow")  # the paper's own share
    assert "tvbench_flow_effective_action_antonym" in manager.all_tasks


def test_sub_tasks_are_named_by_one_pattern() -> None:
    assert sub_task("tvbench_flow_action_antonym", "tvbench_flow") == "action_antonym"
    assert sub_task("flowbench_action_antonym", "flowbench") == "action_antonym"
    assert sub_task("other", "tvbench") == "other"


def test_an_arm_is_its_base_but_for_the_flow(manager: TaskManager) -> None:
    loaded = manager.load_task_or_group(["flowbench_flow_blind", "flowbench"], "chat")
    groups = {group.group: tasks for group, tasks in loaded.items()}
    assert len(groups["flowbench"]) == 5
    for name, base in groups["flowbench"].items():
        arm = groups["flowbench_flow_blind"]["flowbench_flow_blind_" + name.removeprefix("flowbench_")]
        doc = base.dataset["test"][3]
        assert arm.dataset["test"][3] == doc
        assert arm.doc_to_messages(doc) == base.doc_to_messages(doc)
        assert arm.config.generation_kwargs == base.config.generation_kwargs
        assert arm.config.generation_kwargs["max_new_tokens"] == 1, (
            "our model continues the answer's beginning"
        )
        wanted = {"lmms_flow": True, "base": name, "flow": "blind", "protocol": "paper"}
        assert wanted.items() <= arm.config.metadata.items()


def test_a_single_frame_arm_asks_for_one_frame(manager: TaskManager) -> None:
    loaded = manager.load_task_or_group(["flowbench_flow_single_frame_object_count"], "chat")
    (arm,) = loaded.values()
    video = arm.doc_to_messages(arm.dataset["test"][0])[0]["content"][0]
    assert video["num_frames"] == 1
    assert arm.config.metadata["num_frames"] == 1


def test_four_lines_make_an_arm_of_a_task_or_of_a_group(tmp_path: Path) -> None:
    folder = yaml_task(tmp_path, base="flowbench_object_count", flow="video:last")
    (task,) = load("mine", folder).values()
    assert isinstance(task, FlowTask)
    assert task.config.metadata["flow"] == "video:last"
    folder = yaml_task(tmp_path, base="flowbench", flow="video:last")
    ((group, tasks),) = load("mine", folder).items()
    assert group.group == "mine"
    assert set(tasks) == {f"mine_{family}" for family in FAMILIES}
    assert group.config["aggregate_metric_list"], "the group's own means"


FAMILIES = ("action_antonym", "moving_direction", "action_sequence", "scene_transition", "object_count")


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ({"flow": "blind"}, "it has no base"),
        ({"base": "flowbench_object_count"}, "it has no flow"),
        ({"base": "flowbench_object_cuont", "flow": "blind"}, "no task 'flowbench_object_cuont'"),
        ({"base": "flowbench_object_count", "flow": "blind", "num_frames": "many"}, "a whole number from 1"),
        ({"base": "flowbench_object_count", "flow": "gone.yaml"}, "gone.yaml: the file can't be read"),
        ({"base": "flowbench_flow_blind_object_count", "flow": "sham"}, "name the task behind it"),
        ({"base": "flowbench_flow_blind", "flow": "sham"}, "name the group behind it"),
    ],
)
def test_a_mistake_in_the_four_lines_is_one_line(tmp_path: Path, lines: dict[str, Any], says: str) -> None:
    with pytest.raises(RunError, match=says):
        load("mine", yaml_task(tmp_path, **lines))


def test_a_model_that_applies_no_flow_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("decord", reason="lmms-eval's llava_onevision imports it")
    (tmp_path / "base.yaml").write_text("task: base\noutput_type: generate_until\n")
    folder = yaml_task(tmp_path, base="base", flow="video:last")
    with pytest.raises(RunError, match=r"'llava_onevision' can't apply"):
        load("mine", folder, model="llava_onevision")


def answered(task: FlowTask, **changes: Any) -> dict[str, Any]:
    values = {"id": "0", "task": "mine", "doc_id": 0, "status": "ok", "flow": "video:last", **changes}
    return task.process_results(task.dataset["test"][0], [["A", SampleRecord(**values).to_json()]])


def test_an_answer_without_the_flow_is_not_scored(tmp_path: Path) -> None:
    folder = yaml_task(tmp_path, base="flowbench_object_count", flow="video:last")
    (task,) = load("mine", folder).values()
    assert "accuracy" in answered(task)
    assert "accuracy" not in answered(task, status="error")
    half = task.process_results(task.dataset["test"][0], [["A", json.dumps({"status": "ok"})]])
    assert half == {"record": None, "errors": 1, "skipped": 0}, "a record that lacks its fields is none"
    with pytest.raises(RunError, match="did not apply it"):
        answered(task, flow="none")
    with pytest.raises(RunError, match="did not apply it"):
        task.process_results(task.dataset["test"][0], ["A"])


def test_an_edited_flow_file_changes_what_the_hosts_cache_sees(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    folder = yaml_task(tmp_path, base="flowbench_object_count", flow="cut.yaml")
    seen = []
    for flow in ("video:last", "video:question", "video:last"):
        Path("cut.yaml").write_text(f"{{name: cut, cut: ['{flow}']}}\n")
        (task,) = load("mine", folder).values()
        seen.append(task.dump_config()["metadata"]["flow_identity"])
    assert seen[0] == seen[2] != seen[1]


def test_a_users_task_is_never_replaced() -> None:
    own = {"type": "task", "yaml_path": "own.yaml"}
    index = {"flowbench": {"type": "task", "yaml_path": "f.yaml"}, "flowbench_flow_blind": own}
    add_arms(index, lambda name: {})
    assert index["flowbench_flow_blind"] is own
    sham = made_config(index, "flowbench_flow_sham", lambda name: {})
    assert sham is not None
    assert sham["base"] == "flowbench"
    assert made_config(index, "flowbench", lambda name: {}) is None


def test_arms_with_data_of_their_own_do_not_share_it(tmp_path: Path) -> None:
    """In whichever order they are loaded."""
    other = f"{{data_files: {{test: {flowbench_dir()}/action_antonym.jsonl}}}}"
    for name, extra in (("a", ""), ("b", f"dataset_kwargs: {other}\n")):
        (tmp_path / f"{name}.yaml").write_text(
            f"task: {name}\nclass: !function lmms_flow.harness.flow_task.FlowTask\n"
            f"base: flowbench_object_count\nflow: blind\n{extra}"
        )
    for order in (["a", "b"], ["b", "a"]):
        made = TaskManager(include_path=str(tmp_path), include_defaults=False, model_name=OURS)
        tasks = made.load_task_or_group(order, "chat")
        families = {name: tasks[name].dataset["test"][0]["family"] for name in order}
        assert families == {"a": "object_count", "b": "action_antonym"}


def test_arms_of_one_base_load_its_data_once(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    loaded: list[str] = []
    own = datasets.load_dataset
    monkeypatch.setattr(datasets, "load_dataset", lambda *a, **k: (loaded.append(k["path"]), own(*a, **k))[1])
    made = TaskManager(include_defaults=False, model_name=OURS)
    made.load_task_or_group(["flowbench_flow_blind_object_count", "flowbench_flow_sham_object_count"], "chat")
    assert len(loaded) == 1


def test_a_base_that_filters_answers_is_refused(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(
        "task: base\noutput_type: generate_until\ndataset_path: json\n"
        "filter_list: [{name: first, filter: [{function: take_first}]}]\n"
    )
    with pytest.raises(RunError, match="filters answers before it scores them"):
        load("mine", yaml_task(tmp_path, base="base", flow="video:last"))


def test_an_arm_that_asks_in_its_own_way_is_not_the_papers_protocol(tmp_path: Path) -> None:
    lines = {"base": "flowbench_object_count", "flow": "video:last"}
    (task,) = load("mine", yaml_task(tmp_path, **lines)).values()
    assert task.config.metadata["protocol"] == "paper"
    own = "!function lmms_flow.tasks.questions.doc_to_visual"
    (task,) = load("mine", yaml_task(tmp_path, **lines, doc_to_visual=own)).values()
    assert "protocol" not in task.config.metadata


def test_members_of_one_short_name_keep_their_arms() -> None:
    index: Any = {
        "pool": {"type": "group", "task": -1},
        "a": {"type": "python_task"},
        **{name: {"type": "task"} for name in ("pool_one", "one")},
    }
    configs: Any = {"pool": {"task": ["pool_one", "one"]}, "a": {"base": "pool", "flow": "blind"}}
    add_arms(index, configs.__getitem__)
    made: Any = partial(made_config, index, read=configs.__getitem__)
    assert [made(arm)["base"] for arm in made("a")["task"]] == ["pool_one", "one"]


def test_groups_written_out_and_groups_in_a_circle() -> None:
    index: Any = {name: {"type": "group", "task": -1} for name in ("outer", "circle")}
    index |= {name: {"type": "task"} for name in "abc"}
    written = {"outer": ["a", {"group": "inner", "task": ["b", {"task": "c"}]}], "circle": ["a", "circle"]}
    assert list(leaves(index, lambda name: {"task": written[name]}, "outer")) == ["a", "b", "c"]
    assert list(leaves(index, lambda name: {"task": written[name]}, "circle")) == ["a"]


def test_two_managers_each_make_their_own_arms(tmp_path: Path) -> None:
    folder = yaml_task(tmp_path, base="mybase", flow="blind")
    (tmp_path / "base.yaml").write_text("include: flowbench.yaml\ntask: mybase\n")
    source = plugin.tasks_folder() / "flowbench" / "object_count.yaml"
    text = source.read_text().replace("_flowbench.yaml", str(source.with_name("_flowbench.yaml")))
    (tmp_path / "base.yaml").write_text(text.replace("flowbench_object_count", "mybase"))
    first = TaskManager(include_path=folder, include_defaults=False, model_name=OURS)
    TaskManager(include_defaults=False, model_name=OURS)
    (task,) = first.load_task_or_group(["mine"], "chat").values()
    assert task.config.metadata["base"] == "mybase"


def test_leaves_of_groups_of_groups_and_tags() -> None:
    index: Any = {
        "all": {"type": "group", "task": -1},
        "some": {"type": "tag", "task": ["a", "b"]},
        **{name: {"type": "task"} for name in "abc"},
    }
    assert list(leaves(index, lambda name: {"task": ["some", {"task": "c"}]}, "all")) == ["a", "b", "c"]


@pytest.mark.parametrize("single_frame", [False, True], ids=["four arms", "and a single frame"])
def test_four_arms_decode_and_encode_each_clip_once(
    single_frame: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Full attention, both pathways and a random control over one family of flowbench, in one run.

    A single frame is another clip, read and encoded once on its own; it must not come between the others.
    """
    from lmms_eval.evaluator import simple_evaluate

    from lmms_flow.inputs.workers import Workers
    from lmms_flow.model_wrappers.llava_vid import LlavaVidFlow

    decoded: Counter[tuple[str, int]] = Counter()
    encoded: list[int] = []  # frames
    own_read = Workers.read

    def counted_read(self: Workers, clip: Any, *rest: Any) -> Any:
        decoded[clip.path, clip.num_frames] += 1
        return own_read(self, clip, *rest)

    monkeypatch.setattr(Workers, "read", counted_read)
    model = LlavaVidFlow(pretrained="flow-tiny", records=str(tmp_path))
    model.model.model.vision_tower.register_forward_hook(
        lambda tower, pixels, out: encoded.append(out.last_hidden_state.shape[0])
    )
    arms = ["_", "_flow_effective_", "_flow_effective_closed_", "_flow_random_1_"]
    tasks = [f"flowbench{arm}object_count" for arm in arms + single_frame * ["_flow_single_frame_"]]
    out = simple_evaluate(
        model=model,
        tasks=tasks,
        limit=6,
        task_manager=TaskManager(include_defaults=False, model_name=OURS),
        batch_size=1,
    )
    assert [len(samples) for samples in out["samples"].values()] == [6] * len(tasks)
    assert set(decoded.values()) == {1}
    clips = Counter(frames for _, frames in decoded)
    assert clips == {8: 6} | ({1: 6} if single_frame else {})
    assert Counter(encoded) == clips
    records = [sample["record"] for samples in out["samples"].values() for sample in samples]
    assert {record["flow"] for record in records} == {
        "none",
        "effective",
        "effective_closed",
        "random:effective:seed1",
    }
    assert len(
        {(record["num_frames"], record["flops_full"]) for record in records if record["doc_id"] == 0}
    ) == (1 + single_frame)


def test_an_arm_computes_only_what_full_attention_has_not(tmp_path: Path) -> None:
    """cross_frame in the second half: of layers 2 to 6 one row each, whose output nobody uses."""
    from lmms_eval.evaluator import simple_evaluate

    from lmms_flow.engine import decoder_layers, find_decoder
    from lmms_flow.engine.hooks import Hook
    from lmms_flow.model_wrappers.llava_vid import LlavaVidFlow

    rows: dict[int, list[int]] = {}
    model = LlavaVidFlow(pretrained="flow-tiny", records="none", device="cpu")
    model._check([type("Request", (), {"metadata": {"flow": "blind"}})])  # its self-check runs rows too
    for number, layer in enumerate(decoder_layers(find_decoder(model.model)), 1):
        layer.register_forward_hook(
            Hook(
                lambda module, args, out, number=number: rows.setdefault(number, []).append(
                    (out[0] if isinstance(out, tuple) else out).shape[-2]
                )
            )
        )
    simple_evaluate(
        model=model,
        tasks=["flowbench_object_count", "flowbench_flow_cross_frame_second_half_object_count"],
        limit=1,
        task_manager=TaskManager(include_defaults=False, model_name=OURS),
    )
    asked = [place for place, count in enumerate(rows[1]) if count > 100]  # the others are a made-up prompt's
    full, arm = ([rows[number][place] for number in range(1, 13)] for place in asked)
    assert set(full) == {full[0]}
    assert arm[1:6] == [1] * 5
    assert all(1 < count < full[0] for count in arm[6:11])
