"""What lmms-eval loads first: the names of our models, and a way for it to find our tasks.

This runs at every start of lmms-eval, also where another model is used, so it imports nothing heavy and never
raises.
"""

from __future__ import annotations

import contextlib
import importlib.util
import sys
import weakref
from collections.abc import Callable, Iterator, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

from lmms_flow.harness.arms import add_arms, made_config

MODELS = {
    "llava_vid_flow": "lmms_flow.model_wrappers.llava_vid.LlavaVidFlow",
    "internvl_flow": "lmms_flow.model_wrappers.internvl.InternvlFlow",
    "videollama3_flow": "lmms_flow.model_wrappers.videollama3.VideoLlama3Flow",
}

_TASKS_MODULE = "lmms_eval.tasks"
_MARK = "_lmms_flow_tasks_are_known"

_for_all_models = False
_task_manager: Callable[[], Any] = lambda: None  # noqa: E731  (a weak reference, or this before there is one)


def model_manifests() -> list[Any]:
    """The payload of the entry point ``lmms_eval.models``; also makes our tasks known to the host."""
    with contextlib.suppress(Exception):  # without the seam --include_path still finds the tasks
        make_tasks_known()
    try:
        from lmms_eval.models.registry_v2 import ModelManifest

        return [ModelManifest(model_id=name, chat_class_path=path) for name, path in MODELS.items()]
    except Exception:
        return []


def tasks_folder() -> Path:
    """The folder of our task files, for ``--include_path``."""
    spec = importlib.util.find_spec("lmms_flow.tasks")
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError("lmms_flow is installed without its tasks")
    return Path(next(iter(spec.submodule_search_locations)))


def task_manager() -> Any:
    """The host's task manager of this run, or None where there is none (any more)."""
    return _task_manager()


def make_tasks_known() -> None:
    """Lets every later ``TaskManager`` for one of our models find our tasks. Calling it again changes nothing."""
    module = sys.modules.get(_TASKS_MODULE)
    if module is not None:
        _patch(module)
    elif not any(isinstance(finder, _TasksFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _TasksFinder())


@contextlib.contextmanager
def tasks_for_all_models() -> Iterator[None]:
    """Within it our tasks are known whatever model is run."""
    global _for_all_models
    make_tasks_known()
    before, _for_all_models = _for_all_models, True
    try:
        yield
    finally:
        _for_all_models = before


def _patch(module: ModuleType) -> None:
    """Adds our folder to what ``TaskManager`` searches.

    There is no entry point for tasks. By ``initialize_tasks`` the manager knows its model, so that nothing
    changes for others. The host and the user's own ``include_path`` win where names clash: they come first.
    The arms of our benchmarks have no files: they are added to the index, and ``_get_config`` knows them.
    """
    manager_class = module.TaskManager
    original = manager_class.initialize_tasks
    from_file: Any = getattr(manager_class, "_get_config", None)
    if getattr(original, _MARK, False):
        return

    def initialize_tasks(
        self: Any, include_path: str | Sequence[str] | None = None, include_defaults: bool = True
    ) -> Any:
        global _task_manager
        _task_manager = weakref.ref(self)
        model = getattr(self, "model_name", None)
        if _for_all_models or (isinstance(model, str) and model in MODELS):
            include_path = _with_ours(include_path)
        index = original(self, include_path=include_path, include_defaults=include_defaults)
        if from_file is not None:
            read_yaml = module.utils.load_yaml_config
            add_arms(index, lambda name: read_yaml(index[name]["yaml_path"], mode="simple"))
        return index

    def _get_config(self: Any, name: str) -> Any:
        global _task_manager
        _task_manager = weakref.ref(self)  # whose task is made next, where there are several managers
        made = made_config(self.task_index, name, lambda base: from_file(self, base))
        return from_file(self, name) if made is None else made

    setattr(initialize_tasks, _MARK, True)
    initialize_tasks.__doc__ = original.__doc__
    manager_class.initialize_tasks = initialize_tasks
    if from_file is not None:
        manager_class._get_config = _get_config


def _with_ours(include_path: str | Sequence[str] | None) -> list[str]:
    given = [include_path] if isinstance(include_path, str) else list(include_path or ())
    return [*given, str(tasks_folder())]


class _TasksFinder(MetaPathFinder):
    """Patches the host's task module when it is imported: importing it here would cost every command seconds."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != _TASKS_MODULE:
            return None
        with contextlib.suppress(ValueError):
            sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            spec.loader = _PatchingLoader(spec.loader)
        return spec


class _PatchingLoader(Loader):
    """The module's own loader, and the patch after it."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def __getattr__(self, name: str) -> Any:  # get_source and the like, for tracebacks
        return getattr(self._loader, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        if module.__spec__ is not None:
            module.__spec__.loader = module.__loader__ = self._loader
        with contextlib.suppress(Exception):  # a later host may be built otherwise; its own tasks still work
            _patch(module)
