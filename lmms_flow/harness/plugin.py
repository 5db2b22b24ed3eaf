"""What lmms-eval loads first: the names of our models, and a way for it to find our tasks.

This runs at every start of lmms-eval, also where another model is used, so it imports nothing heavy and never
raises: lmms-eval loads all plug-ins in one `try`. What is not as it is expected is told in one line in the log.
"""

from __future__ import annotations

import contextlib
import importlib.util
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

from lmms_flow.harness import host
from lmms_flow.harness.arm_files import checked_arm, told_of_an_arm
from lmms_flow.harness.arms import add_arms, made_config
from lmms_flow.harness.ground import MODELS, remember_task_manager
from lmms_flow.harness.host import HostError
from lmms_flow.harness.host_calls import end_with_a_status
from lmms_flow.harness.host_table import leave_out_zeros

_MARK = "_lmms_flow_tasks_are_known"

seam_errors: list[HostError] = []  # what of lmms-eval was not as expected, each told once
_for_all_models = False


def model_manifests() -> list[Any]:
    """The payload of the entry point ``lmms_eval.models``; also makes our tasks known to the host."""
    with _told():
        make_tasks_known()
    return manifests_of(MODELS)


def manifests_of(models: Mapping[str, str]) -> list[Any]:
    """What an entry point of the group ``lmms_eval.models`` returns; ``lmms-eval models`` then lists the names too.

    Args:
        models: the dotted path of each wrapper by its name in lmms-eval.
    """
    with _told():
        manifest = host.MANIFEST.take()
        listed = getattr(sys.modules.get(host.MODELS_MODULE), host.LISTED_MODELS, None)
        if isinstance(listed, dict):
            listed.update(models)
        return [manifest(model_id=name, chat_class_path=path) for name, path in models.items()]
    return []


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """What goes wrong inside is a line in the log: the host and the other plug-ins go on."""
    try:
        yield
    except HostError as error:
        _tell(error)
    except Exception as error:
        what = f"place for our models and tasks ({type(error).__name__}: {error})"
        _tell(HostError(what, "register them"))


def _tell(error: HostError) -> bool:
    """One line in the log, once; returns False."""
    if str(error) not in map(str, seam_errors):
        seam_errors.append(error)
        from loguru import logger  # lmms-eval has imported it long before

        logger.warning(str(error))
    return False


def tasks_folder() -> Path:
    """The folder of our task files, for ``--include_path``."""
    spec = importlib.util.find_spec("lmms_flow.tasks")
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError("lmms_flow is installed without its tasks")
    return Path(next(iter(spec.submodule_search_locations)))


def make_tasks_known() -> None:
    """Lets every later ``TaskManager`` for one of our models find our tasks. Calling it again changes nothing.

    Raises HostError where the host's module of tasks is loaded and is not as it is expected.
    """
    module = sys.modules.get(host.TASKS_MODULE)
    if module is not None:
        _patch(module)
    elif not any(isinstance(finder, _TasksFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _TasksFinder())


@contextlib.contextmanager
def tasks_for_all_models() -> Iterator[None]:
    """Within it our tasks are known whatever model is run. Raises HostError where they can't be made known."""
    global _for_all_models
    make_tasks_known()
    if seam_errors:
        raise seam_errors[0]
    before, _for_all_models = _for_all_models, True
    try:
        yield
    finally:
        _for_all_models = before


def _patch(module: ModuleType) -> None:
    """Adds our folder to what ``TaskManager`` searches.

    There is no entry point for tasks. By ``initialize_tasks`` the manager knows its model, so that nothing
    changes for others. The host and the user's own ``include_path`` win where names clash: they come first.
    The arms of our benchmarks have no files: they are added to the index, and ``_get_config`` knows them. Where only
    the arms can't be made, the tasks in files are still found.
    """
    original = host.INITIALIZE_TASKS.take(module)
    manager_class = module.TaskManager
    if getattr(original, _MARK, False):
        return
    from_file, read_yaml = _readers(module)

    def initialize_tasks(
        self: Any, include_path: str | Sequence[str] | None = None, include_defaults: bool = True
    ) -> Any:
        remember_task_manager(self)
        try:
            ours = _for_all_models or _is_ours(host.model_name_of(self))
        except HostError as error:
            ours = _tell(error)
        with _told():
            end_with_a_status(_runs_flows)
        with _told():
            leave_out_zeros()
        include_path = _with_ours(include_path) if ours else include_path
        index = original(self, include_path=include_path, include_defaults=include_defaults)
        if from_file is not None:
            try:
                host.check_index(index)
            except HostError as error:
                _tell(error)
            else:
                add_arms(index, lambda name: read_yaml(index[name]["yaml_path"], mode="simple"))
        return index

    def _get_config(self: Any, name: str) -> Any:
        remember_task_manager(self)
        made = made_config(host.index_of_tasks(self), name, lambda base: from_file(self, base))
        if made is not None:
            return made
        with told_of_an_arm(name, host.index_of_tasks(self)):
            return checked_arm(name, from_file(self, name))

    setattr(initialize_tasks, _MARK, True)
    initialize_tasks.__doc__ = original.__doc__
    manager_class.initialize_tasks = initialize_tasks
    if from_file is not None:
        manager_class._get_config = _get_config


def _readers(module: ModuleType) -> tuple[Any, Any]:
    """How the host reads a task's configuration, with and without its functions; (None, None) where that is gone."""
    with _told():
        host.TASK_INDEX.take(module)
        return host.GET_CONFIG.take(module), host.LOAD_YAML.take(module)
    return None, None


def _is_ours(model: object) -> bool:
    return isinstance(model, str) and model in MODELS


def _runs_flows(model: object) -> bool:
    """Whether lmms-eval knows it as a model of ours or of a subclass."""
    if not isinstance(model, str) or _is_ours(model):
        return isinstance(model, str)
    try:
        return bool(getattr(host.GET_MODEL.take()(model), "runs_flows", False))
    except Exception:  # there is no such model, or it can't be loaded
        return False


def _with_ours(include_path: str | Sequence[str] | None) -> list[str]:
    given = [include_path] if isinstance(include_path, str) else list(include_path or ())
    return [*given, str(tasks_folder())]


class _TasksFinder(MetaPathFinder):
    """Patches the host's task module when it is imported: importing it here would cost every command seconds."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != host.TASKS_MODULE:
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
        with _told():  # a later host may be built otherwise; its own tasks still work
            _patch(module)
