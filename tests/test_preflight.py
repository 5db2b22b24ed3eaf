"""What is checked before weights are loaded, and what is misspelt in the YAML of an arm: one line each."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub import constants

from lmms_flow.errors import RunError
from lmms_flow.harness import host
from lmms_flow.harness.arm_files import checked_arm, told_of_an_arm
from lmms_flow.runner import preflight

NAME = "byminji/LLaVA-NeXT-7B-Video-FT"


def line_of(error: pytest.ExceptionInfo[RunError]) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("pretrained", "says"),
    [
        ("flow-tny", "did you mean 'flow-tiny'?"),
        ("Flow-Tiny", "did you mean 'flow-tiny'?"),
        ("LLaVA-NeXT-7B-Video-FT", f"did you mean '{NAME}'?"),
        ("./no/such/folder", "there is no such folder"),
        ("/data/llava", "there is no such folder, and a repository is written ORGANISATION/NAME"),
        ("~/no-such-checkpoint", "there is no such folder"),
    ],
)
def test_a_checkpoint_that_there_is_not(pretrained: str, says: str) -> None:
    with pytest.raises(RunError) as error:
        preflight.check_checkpoint(pretrained)
    assert f"pretrained={pretrained}: " in line_of(error)
    assert says in line_of(error)


def test_a_checkpoint_that_there_may_be(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    for pretrained in ("flow-tiny", NAME, str(tmp_path)):
        preflight.check_checkpoint(pretrained)


def test_a_folder_that_is_no_checkpoint_names_the_one_inside_it(tmp_path: Path) -> None:
    (tmp_path / "snapshot").mkdir()
    (tmp_path / "snapshot" / "config.json").write_text("{}")
    with pytest.raises(RunError) as error:
        preflight.check_checkpoint(str(tmp_path))
    assert f"has no config.json, so it is no checkpoint; did you mean '{tmp_path / 'snapshot'}'?" in line_of(
        error
    )
    with pytest.raises(RunError, match="it is a file; name the checkpoint's folder"):
        preflight.check_checkpoint(str(tmp_path / "snapshot" / "config.json"))


def test_a_place_that_can_not_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"records .*file/records: .*file is not a folder; name another"):
        preflight.before_loading("flow-tiny", str(tmp_path / "file" / "records"))
    preflight.before_loading("flow-tiny", str(tmp_path / "new" / "records"))
    assert not (tmp_path / "new").exists(), "nothing is made for it"
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write everywhere
    with pytest.raises(
        RunError, match="can't be written; change its rights, or name another folder with records="
    ):
        preflight.before_loading("flow-tiny", str(tmp_path))
    preflight.before_loading("flow-tiny", "none")


class Manager:
    """lmms-eval's task manager, as far as it is asked here."""

    model_name = "llava_vid_flow"

    def __init__(self, **configs: dict[str, Any]) -> None:
        self.configs = configs
        kinds = {name: "group" if "group" in config else "task" for name, config in configs.items()}
        self.task_index = {
            name: {"type": kind, "task": configs[name].get("task", -1) if kind == "group" else -1}
            for name, kind in kinds.items()
        }

    def _get_config(self, name: str) -> dict[str, Any]:
        return self.configs[name]


TVBENCH = {
    "dataset_path": "FunAILab/TVBench",
    "dataset_kwargs": {"token": True, "cache_dir": "tv", "video": True},
}


def test_a_data_set_that_needs_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "get_token", lambda: None)
    manager = Manager(
        tvbench={"group": "tvbench", "task": ["tv_a", "tv_b"]},
        tv_a=TVBENCH,
        tv_b=TVBENCH,
        arm={"class": object, "base": "tv_a", "flow": "blind"},
    )
    for name in ("tvbench", "tv_b", "arm"):
        with pytest.raises(RunError) as error:
            preflight.check_tasks(manager, name, NAME)
        assert "FunAILab/TVBench is read with a token of the Hugging Face hub, and there is none" in line_of(
            error
        )
        assert "set HF_TOKEN" in line_of(error)
    monkeypatch.setattr(preflight, "get_token", lambda: "x")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    preflight.check_tasks(manager, "tvbench", NAME)


def test_clips_that_can_not_be_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "get_token", lambda: "x")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(RunError, match=r"clips are not in .*/tv, and HF_HUB_OFFLINE keeps them"):
        preflight.check_tasks(Manager(tv=TVBENCH), "tv", NAME)
    (tmp_path / "tv").write_text("")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with pytest.raises(RunError, match="clips belong into .*/tv, which is no folder"):
        preflight.check_tasks(Manager(tv=TVBENCH), "tv", NAME)


@pytest.mark.parametrize(
    ("flow", "says"),
    [
        ("video:qestion", "did you mean 'question'"),
        ("VIDEO:LAST", "write video:last"),
        ("no.yaml", "No such file"),
    ],
)
def test_an_arms_flow_is_read_first(flow: str, says: str) -> None:
    manager = Manager(base={}, arm={"class": object, "base": "base", "flow": flow})
    with pytest.raises(RunError) as error:
        preflight.check_tasks(manager, "arm", NAME)
    assert line_of(error).startswith("lmms_flow: task arm: ")
    assert says in line_of(error)
    known = Manager(base={}, arm={"class": object, "base": "base", "flow": "effective"})
    preflight.check_tasks(known, "arm", "/some/checkpoint")  # an arm that is skipped, with its reason


def test_what_an_evaluation_was_asked_for_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    asked: dict[str, Any] = {
        "cli_args": SimpleNamespace(output_path=str(tmp_path / "file")),
        "tasks": [],
        "task_manager": None,
    }
    monkeypatch.setattr(host, "evaluation", lambda: asked)
    with pytest.raises(RunError, match="--output_path .*file is not a folder"):
        preflight.before_loading("flow-tiny", "none")
    asked["cli_args"].output_path = None
    asked |= {
        "task_manager": Manager(arm={"class": 1, "base": "b", "flow": "video:qestion"}),
        "tasks": ["arm"],
    }
    with pytest.raises(RunError, match="task arm: .*did you mean 'question'"):
        preflight.before_loading("flow-tiny", "none")


# The YAML of an arm


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"base": "tvbench", "flow": "blind"}, "class: !function lmms_flow.harness.flow_task.FlowTask"),
        ({"base": "tvbench", "trace": "map"}, "class: !function lmms_flow.harness.trace_task.TraceTask"),
        ({"class": 1, "base": "tvbench", "flwo": "blind"}, "it has no setting 'flwo'; did you mean 'flow'?"),
        ({"class": 1, "base": "t", "flow": "blind", "num_frame": 4}, "did you mean 'num_frames'?"),
    ],
)
def test_what_is_left_out_or_misspelt_in_an_arm(config: dict[str, Any], says: str) -> None:
    with pytest.raises(RunError) as error:
        checked_arm("mine", config)
    assert "task mine: " in line_of(error)
    assert says in line_of(error)


@pytest.mark.parametrize(
    "config",
    [
        {"dataset_path": "x"},
        {"class": 1, "base": "tvbench", "flow": "blind", "generation_kwargs": {}, "metadata": {}},
        "not a mapping",
    ],
)
def test_other_tasks_are_left_as_they_are(config: Any) -> None:
    assert checked_arm("mine", config) is config


def test_a_class_that_is_not_there_is_named(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("task: mine\nclass: !function lmms_flow.harness.flow_task.FlowTsk\nbase: tvbench\n")
    index: dict[str, dict[str, Any]] = {"mine": {"yaml_path": str(file)}, "theirs": {"yaml_path": -1}}
    with pytest.raises(RunError) as error, told_of_an_arm("mine", index):
        raise AttributeError("module has no attribute 'FlowTsk'")
    assert "did you mean 'lmms_flow.harness.flow_task.FlowTask'?" in line_of(error)
    with pytest.raises(AttributeError), told_of_an_arm("theirs", index):
        raise AttributeError("of somebody else")


def test_a_misspelt_base_names_the_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    from lmms_flow.harness import flow_task

    manager = Manager(tvbench={}, mine={})
    monkeypatch.setattr(flow_task, "task_manager", lambda: manager)
    with pytest.raises(RunError) as error:
        flow_task.FlowTask({"task": "mine", "base": "tvbnch", "flow": "blind"})
    assert "there is no task 'tvbnch' to be its base; did you mean 'tvbench'?" in line_of(error)
