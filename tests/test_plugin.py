"""The entry point: it names our models, makes our tasks known for them alone, and costs the host nothing."""

from __future__ import annotations

import gc
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lmms_flow.harness import plugin
from lmms_flow.harness.ground import MODELS, task_manager

HEAVY = (
    "torch",
    "transformers",
    "numpy",
    "datasets",
    "decord",
    "av",
    "lmms_flow.engine",
    "lmms_flow.harness.loop",
)


def python(code: str) -> str:
    """What a fresh interpreter prints: an import order can't be tested in this one."""
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=540, check=False
    )
    assert run.returncode == 0, run.stderr[-2000:]
    return run.stdout.strip()


def test_loading_the_entry_point_imports_nothing_heavy() -> None:
    code = f"import sys, lmms_flow.harness.plugin; print([n for n in {HEAVY!r} if n in sys.modules])"
    assert python(code) == "[]"


def test_without_lmms_eval_it_gives_nothing_and_never_raises() -> None:
    code = (
        "import sys; sys.modules['lmms_eval'] = None\n"
        "from lmms_flow.harness.plugin import model_manifests; print(model_manifests())"
    )
    assert python(code) == "[]"


def test_a_host_built_otherwise_is_left_alone() -> None:
    """A later lmms-eval may have no TaskManager: then there is no seam, and no error."""
    code = (
        "import sys, types; sys.modules['lmms_eval.tasks'] = types.ModuleType('lmms_eval.tasks')\n"
        "from lmms_flow.harness.plugin import model_manifests; print([m.model_id for m in model_manifests()])"
    )
    assert "llava_vid_flow" in python(code)


@pytest.mark.host
def test_the_task_module_is_patched_when_it_is_imported_and_stays_itself() -> None:
    code = """
import sys
from lmms_flow.harness import plugin
plugin.make_tasks_known()
plugin.make_tasks_known()
assert sum(type(finder).__name__ == "_TasksFinder" for finder in sys.meta_path) == 1
assert "lmms_eval.tasks" not in sys.modules
import lmms_eval.tasks as tasks
assert not any(type(finder).__name__ == "_TasksFinder" for finder in sys.meta_path)
assert type(tasks.__loader__).__name__ == "SourceFileLoader", tasks.__loader__
first = tasks.TaskManager.initialize_tasks
plugin.make_tasks_known()
assert tasks.TaskManager.initialize_tasks is first
print(first.__module__, tasks.TaskManager.initialize_tasks.__doc__ is not None)
"""
    assert python(code) == "lmms_flow.harness.plugin True"


def test_the_folder_holds_the_tasks() -> None:
    assert (plugin.tasks_folder() / "flowbench" / "flowbench.yaml").is_file()


def test_the_manifests_name_our_models() -> None:
    registry = pytest.importorskip("lmms_eval.models").MODEL_REGISTRY_V2
    for model in MODELS:
        resolved = registry.resolve(model)
        assert resolved.model_type == "chat"
        assert resolved.class_path == MODELS[model]


class Host:
    """lmms-eval's task module, without its thousand files."""

    class TaskManager:
        def __init__(
            self, include_path: Any = None, include_defaults: bool = True, model_name: str | None = None
        ) -> None:
            self.model_name = model_name
            self.searched = self.initialize_tasks(include_path, include_defaults)

        def initialize_tasks(self, include_path: Any = None, include_defaults: bool = True) -> Any:
            """Finds tasks."""
            return [] if include_path is None else include_path


@pytest.fixture
def manager_class(monkeypatch: pytest.MonkeyPatch) -> type[Any]:
    class Manager(Host.TaskManager):
        initialize_tasks = Host.TaskManager.initialize_tasks

    module = type(sys)("a_host")
    module.TaskManager = Manager  # type: ignore[attr-defined]
    monkeypatch.setattr(plugin, "seam_errors", [])  # this host has no arms to make
    plugin._patch(module)
    plugin._patch(module)
    return Manager


OURS = str(plugin.tasks_folder())


def test_only_our_models_see_our_tasks(manager_class: type[Any]) -> None:
    assert manager_class(model_name="llava_vid_flow").searched == [OURS]
    assert manager_class(model_name="qwen2_5_vl").searched == []
    assert manager_class(model_name=None).searched == []
    assert manager_class(model_name=object()).searched == []


def test_the_users_own_tasks_come_first(manager_class: type[Any]) -> None:
    assert manager_class("mine", model_name="llava_vid_flow").searched == ["mine", OURS]
    assert manager_class(["a", "b"], model_name="llava_vid_flow").searched == ["a", "b", OURS]
    assert manager_class("mine", model_name="other").searched == "mine"


def test_within_our_own_command_every_model_sees_them(manager_class: type[Any]) -> None:
    plugin.seam_errors.clear()
    with plugin.tasks_for_all_models():
        assert manager_class(model_name="qwen2_5_vl").searched == [OURS]
    assert manager_class(model_name="qwen2_5_vl").searched == []


def test_the_task_manager_is_known_and_not_kept_alive(manager_class: type[Any]) -> None:
    manager = manager_class(model_name="llava_vid_flow")
    assert task_manager() is manager
    del manager
    gc.collect()
    assert task_manager() is None


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Names of the real host's tasks for one of our models, with a user's folder that clashes with ours."""
    from lmms_eval.tasks import TaskManager

    folder = tmp_path_factory.mktemp("mine")
    (folder / "mine.yaml").write_text("task: flowbench_object_count\ndataset_path: json\n")
    plugin.make_tasks_known()
    return TaskManager(
        include_path=str(folder), include_defaults=False, model_name="llava_vid_flow"
    ).task_index


def test_the_real_host_finds_them(index: Any) -> None:
    assert index["flowbench"]["type"] == "group"
    assert index["flowbench_moving_direction"]["type"] == "task"
    assert Path(index["flowbench_object_count"]["yaml_path"]).name == "mine.yaml"
