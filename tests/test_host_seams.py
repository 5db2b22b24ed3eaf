"""What we know of lmms-eval's private names: one that is gone is one line, and never the end of the host."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from lmms_flow import versions
from lmms_flow.harness import host
from lmms_flow.harness.ground import MODELS
from lmms_flow.harness.host import HostError, Seam
from lmms_flow.harness.host_cache import cache_in_use

HERE = versions.installed_version("lmms-eval")
RANGE = versions.tried_range("lmms-eval")


def line_of(error: BaseException) -> str:
    line = str(error)
    assert "\n" not in line
    assert f"lmms-eval {HERE} has no " in line
    assert f'lmms-eval{RANGE}: pip install "lmms-eval{RANGE}", or a later lmms-flow' in line
    return line


def owner_of(seam: Seam) -> tuple[Any, str]:
    owner: Any = importlib.import_module(seam.module)
    *above, name = seam.name.split(".")
    for part in above:
        owner = getattr(owner, part)
    return owner, name


def python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=540, check=False
    )


def test_the_installed_host_has_all_of_them() -> None:
    assert RANGE.startswith(">=")
    assert list(host.problems()) == []


@pytest.mark.parametrize("seam", host.SEAMS, ids=str)
def test_a_renamed_one_is_one_line(seam: Seam, monkeypatch: pytest.MonkeyPatch) -> None:
    owner, name = owner_of(seam)
    value = owner.__dict__[name]
    monkeypatch.delattr(owner, name)
    monkeypatch.setattr(owner, f"{name}_renamed", value, raising=False)
    with pytest.raises(HostError) as error:
        seam.take()
    assert f"has no {seam}, which is needed to {seam.use}" in line_of(error.value)
    assert [str(one) for one in host.problems()][:1] != []


@pytest.mark.parametrize("seam", [one for one in host.SEAMS if one.parameters], ids=str)
def test_a_renamed_parameter_is_one_line(seam: Seam, monkeypatch: pytest.MonkeyPatch) -> None:
    owner, name = owner_of(seam)
    names = [f"{one}_renamed" for one in seam.parameters]
    namespace: dict[str, Any] = {}
    exec(f"def renamed({', '.join(names)}): pass", namespace)
    monkeypatch.setattr(owner, name, namespace["renamed"])
    with pytest.raises(HostError, match=f"argument {seam.parameters[0]!r} of {seam}"):
        seam.take()


def test_a_module_that_is_gone_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lmms_eval.models.registry_v2", None)
    with pytest.raises(HostError) as error:
        host.MANIFEST.take()
    assert "module lmms_eval.models.registry_v2" in line_of(error.value)


SPOILT = {
    "del registry_v2.ModelManifest": "ModelManifest, which is needed to name our models",
    "del tasks.TaskManager.initialize_tasks": "TaskManager.initialize_tasks, which is needed to let our tasks",
    "del tasks.TaskManager._get_config": "TaskManager._get_config, which is needed to make the arms",
    "del tasks.TaskManager.task_index": "TaskManager.task_index, which is needed to make the arms",
    "tasks.utils = None": "utils.load_yaml_config, which is needed to read",
    "tasks.TaskManager = int": "TaskManager.initialize_tasks, which is needed to let our tasks be found",
}
REGISTER = """
import json, sys
from lmms_flow.harness import plugin
manifests, plugin.model_manifests = plugin.model_manifests, list  # the host's own start registers nothing
import lmms_eval.tasks as tasks, lmms_eval.models.registry_v2 as registry_v2
sys.meta_path[:] = [finder for finder in sys.meta_path if type(finder).__name__ != "_TasksFinder"]
kept = [(registry_v2, dict(vars(registry_v2))), (tasks, dict(vars(tasks)))]
manager = tasks.TaskManager
methods = {name: vars(manager)[name] for name in ("initialize_tasks", "_get_config", "task_index")}
seen = {}
for spoil in json.loads(sys.argv[1]):
    exec(spoil)
    names = len(manifests())
    manifests()
    seen[spoil] = [names, [str(error) for error in plugin.seam_errors]]
    plugin.seam_errors.clear()
    for module, values in kept:
        vars(module).update(values)
    for name, method in methods.items():
        setattr(manager, name, method)
print(json.dumps(seen))
"""


@pytest.mark.host
def test_the_entry_point_tells_it_and_never_raises() -> None:
    """In a process of its own: the patch is made once. What is told is told once."""
    run = python(REGISTER, json.dumps(list(SPOILT)))
    assert run.returncode == 0, run.stderr
    *log, last = run.stdout.splitlines()
    seen, log_text = json.loads(last), "\n".join(log) + run.stderr
    for spoil, said in SPOILT.items():
        names, (line,) = seen[spoil]
        assert names == (0 if "ModelManifest" in spoil else len(MODELS)), spoil
        assert said in line
        assert log_text.count(line) == [seen[one][1] for one in SPOILT].count([line])


@pytest.mark.host
def test_our_own_command_refuses_a_host_without_a_place_for_our_tasks() -> None:
    run = python(
        "import sys\n"
        "import lmms_eval.tasks as tasks\n"
        "from lmms_flow.harness import plugin, evaluate\n"
        "plugin.seam_errors.append(plugin.HostError('TaskManager', 'find tasks'))\n"
        "sys.exit(evaluate.main(['--model', 'llava_vid_flow', '--tasks', 'flowbench']))\n"
    )
    assert run.returncode == 1
    assert run.stderr.strip().splitlines()[-1].startswith("lmms_flow: lmms-eval"), run.stderr[-500:]


def test_the_evaluation_is_found_where_it_is_set_up(monkeypatch: pytest.MonkeyPatch) -> None:
    evaluator = importlib.import_module("lmms_eval.evaluator")
    assert host.evaluation() is None
    found: list[Any] = []
    monkeypatch.setattr(
        evaluator.models,
        "get_model",
        lambda *_: SimpleNamespace(create_from_arg_string=lambda *_: found.append(host.evaluation())),
    )
    with pytest.raises((AttributeError, UnboundLocalError)):
        evaluator.simple_evaluate(
            model="any", tasks=["t"], use_cache="here", gen_kwargs="top_k=3", task_manager=object()
        )
    assert found[0]["use_cache"] == "here"
    assert found[0]["gen_kwargs"] == {"top_k": 3}


def test_a_renamed_evaluation_is_no_run_without_a_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing found on the stack means that nothing was asked: a renamed function must not read like that."""
    monkeypatch.delattr(importlib.import_module("lmms_eval.evaluator"), "simple_evaluate")
    with pytest.raises(HostError, match="simple_evaluate, which is needed to know what a run was asked for"):
        cache_in_use()


def test_a_request_of_another_form_is_one_line() -> None:
    good: tuple[Any, ...] = ("", lambda doc: [], {}, 0, "task", "test")
    assert host.arguments_of(SimpleNamespace(args=good)).task == "task"
    swapped = (good[0], good[2], good[1], *good[3:])
    others: list[Any] = [good[:5], (*good, 1), list(good), swapped, None]
    for args in others:
        with pytest.raises(HostError) as error:
            host.arguments_of(SimpleNamespace(args=args))
        line_of(error.value)


def test_an_index_of_another_form_is_one_line() -> None:
    host.check_index(
        {"a": {"type": "task", "yaml_path": "a.yaml"}, "b": {"type": "group", "task": -1, "yaml_path": -1}}
    )
    others: list[Any] = [[], {"a": {"kind": "task"}}, {"a": "a.yaml"}]
    for index in others:
        with pytest.raises(HostError, match="index of tasks whose entries have type and yaml_path"):
            host.check_index(index)


def test_an_end_of_another_form_is_one_line() -> None:
    assert host.results_of((None, None)) is None
    others: list[Any] = [None, {"results": {}}, ({"scores": {}}, None)]
    for returned in others:
        with pytest.raises(HostError, match="lmms-eval .* has no"):
            host.results_of(returned)


def test_nothing_else_imports_lmms_eval() -> None:
    from pathlib import Path

    import lmms_flow

    root = Path(lmms_flow.__file__).parent
    sources = [
        *root.rglob("*.py"),
        *(root.parent / "model_wrappers").rglob("*.py"),
        *(root.parent / "tasks").rglob("*.py"),
    ]
    assert len(sources) > 80
    importing = [
        file.name
        for file in sources
        if any(
            line.lstrip().startswith(("import lmms_eval", "from lmms_eval"))
            for line in file.read_text().splitlines()
        )
    ]
    assert importing == []
