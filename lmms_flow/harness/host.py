"""Every private thing of lmms-eval that this package touches, each checked when it is used.

lmms-eval promises none of these names. A release that renames one ends in one kind of error, in one line: what is
gone, what it was for, the version that is installed, the versions that were tried, and what to do. Nothing else in this
package imports lmms_eval or knows the shape of what it hands over.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any, NamedTuple
from unittest import mock

from tqdm import tqdm

from lmms_flow.errors import RunError
from lmms_flow.versions import installed_version, what_to_install

TASKS_MODULE = "lmms_eval.tasks"
MODELS_MODULE, LISTED_MODELS = (
    "lmms_eval.models",
    "AVAILABLE_CHAT_TEMPLATE_MODELS",
)  # what `lmms-eval models` prints
_TAUGHT = "_lmms_flow_keys_are_known"


class HostError(RunError):
    """lmms-eval is not built as this package expects it. One line, exit status 1."""

    def __init__(self, missing: str, use: str) -> None:
        here = installed_version("lmms-eval") or "(unknown)"
        super().__init__(
            f"lmms-eval {here} has no {missing}, which is needed to {use}; {what_to_install('lmms-eval')}"
        )


@dataclass(frozen=True)
class Seam:
    """One name in lmms-eval: where it is, what it is for, and which parameters it must take."""

    module: str
    name: str  # may have dots: a method of a class
    use: str
    parameters: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"

    def take(self, module: ModuleType | None = None) -> Any:
        """The thing itself. Raises HostError where it is gone or takes other parameters."""
        found: Any = module
        if found is None:
            try:
                found = importlib.import_module(self.module)
            except ImportError as error:
                why = (
                    ""
                    if isinstance(error, ModuleNotFoundError) and error.name == self.module
                    else f" ({error})"
                )
                raise HostError(f"module {self.module} that can be imported{why}", self.use) from error
        for part in self.name.split("."):
            found = getattr(found, part, None)
            if found is None:
                raise HostError(str(self), self.use)
        if self.parameters:
            self._check_parameters(found)
        return found

    def owner(self) -> Any:
        """What has it as an attribute: its module, or a class."""
        above, _, _ = self.name.rpartition(".")
        return Seam(self.module, above, self.use).take() if above else importlib.import_module(self.module)

    def _check_parameters(self, found: Any) -> None:
        try:
            taken = inspect.signature(found).parameters
        except (TypeError, ValueError):  # of no Python function: nothing is known
            return
        if any(one.kind is inspect.Parameter.VAR_KEYWORD for one in taken.values()):
            return
        for name in self.parameters:
            if name not in taken:
                raise HostError(f"argument {name!r} of {self}", self.use)


MANIFEST = Seam(
    "lmms_eval.models.registry_v2", "ModelManifest", "name our models", ("model_id", "chat_class_path")
)
INITIALIZE_TASKS = Seam(
    TASKS_MODULE,
    "TaskManager.initialize_tasks",
    "let our tasks be found (--include_path with the folder that `lmms-flow tasks` prints still finds those in files)",
    ("include_path", "include_defaults"),
)
GET_CONFIG = Seam(TASKS_MODULE, "TaskManager._get_config", "make the arms of a benchmark", ("name",))
TASK_INDEX = Seam(TASKS_MODULE, "TaskManager.task_index", "make the arms of a benchmark")
ALL_TASKS = Seam(TASKS_MODULE, "TaskManager.all_tasks", "name the nearest task")
LOAD_YAML = Seam(
    TASKS_MODULE, "utils.load_yaml_config", "read the configuration of a task", ("yaml_path", "mode")
)
MODEL_BASE = Seam("lmms_eval.api.model", "lmms", "be a model of lmms-eval")
CREATE_MODEL = Seam(
    "lmms_eval.api.model",
    "lmms.create_from_arg_string",
    "load a model as the command line does",
    ("arg_string",),
)
TASK_BASE = Seam(
    "lmms_eval.api.task", "ConfigurableMessagesTask", "be a task of lmms-eval", ("config", "model_name")
)
GET_MODEL = Seam("lmms_eval.models", "get_model", "load a model by its name", ("model_name",))
LIST_MODELS = Seam(
    "lmms_eval.models", "list_available_models", "name the nearest model", ("include_aliases",)
)
PARSE_ARGS = Seam("lmms_eval.__main__", "parse_eval_args", "know the arguments of the command line")
CLI_EVALUATE = Seam("lmms_eval.__main__", "cli_evaluate", "run its command line")
CLI_SINGLE = Seam("lmms_eval.__main__", "cli_evaluate_single", "watch how an evaluation ends", ("args",))
MAKE_TABLE = Seam(
    "lmms_eval.__main__", "make_table", "print no counter that is zero", ("result_dict", "column")
)
EVALUATE = Seam(
    "lmms_eval.evaluator",
    "simple_evaluate",
    "know what a run was asked for",
    (
        "use_cache",
        "gen_kwargs",
        "num_fewshot",
        "system_instruction",
        "apply_chat_template",
        "fewshot_as_multiturn",
        "cache_requests",
        "delete_requests_cache",
        "force_simple",
        "max_tokens",
        "torch_random_seed",
    ),
)
RUN_TASKS = Seam(
    "lmms_eval.evaluator",
    "evaluate",
    "go on after a document that its task can't ask about or score",
    ("lm", "task_dict"),
)
CACHE_RUN = Seam(
    "lmms_eval.caching.response_cache",
    "ResponseCache.execute",
    "keep answers of another model out of --use_cache",
    ("lm", "requests"),
)
CACHE_KEY = Seam(
    "lmms_eval.caching.response_cache",
    "compute_cache_key",
    CACHE_RUN.use,
    ("task_name", "doc_id", "idx"),
)
PARSE_STRING = Seam(
    "lmms_eval.utils",
    "simple_parse_args_string",
    "read --gen_kwargs as lmms-eval reads them",
    ("args_string",),
)
MVBENCH_FOLDERS = Seam("lmms_eval.tasks.mvbench.utils", "DATA_LIST", "find the clips of MVBench")

SEAMS = tuple(one for one in list(globals().values()) if isinstance(one, Seam))


def problems() -> Iterator[HostError]:
    """What of lmms-eval is not as it is expected, seam by seam; imports lmms-eval, which takes seconds."""
    for seam in SEAMS:
        try:
            seam.take()
        except HostError as error:
            yield error


# Requests


class HostRequest(NamedTuple):
    """A request for one generation, as lmms-eval hands it to a chat model."""

    context: str
    doc_to_messages: Callable[[Any], Any]
    gen_kwargs: Mapping[str, Any]
    doc_id: int
    task: str
    split: str


def arguments_of(request: Any) -> HostRequest:
    """Unpacks a request. Raises HostError where it is built otherwise."""
    given = getattr(request, "args", None)
    if not isinstance(given, tuple) or len(given) != len(HostRequest._fields):
        raise HostError(f"request of the parts {', '.join(HostRequest._fields)}", "read what is asked")
    if not callable(given[1]) or not isinstance(given[2], Mapping):
        raise HostError(
            "request whose second part makes messages and whose third holds the settings", "read it"
        )
    return HostRequest(*given)


def is_padding(request: Any) -> bool:
    """Whether a request only evens out the ranks of a distributed run; nobody reads its answer."""
    return bool((request.metadata or {}).get("__padding_only__"))


# Tasks


def check_index(index: Any) -> None:
    """Raises HostError where the index of tasks has entries of another form than arms are written in."""
    wanted = {"type", "yaml_path"}
    if not isinstance(index, dict) or not all(
        isinstance(entry, dict) and wanted <= entry.keys() for entry in index.values()
    ):
        raise HostError(
            "index of tasks whose entries have type and yaml_path", "make the arms of a benchmark"
        )


def index_of_tasks(manager: Any) -> dict[str, dict[str, Any]]:
    """A task manager's index: name -> type, task, yaml_path."""
    return _attribute(manager, "task_index", TASK_INDEX.use)  # type: ignore[no-any-return]


def config_of(manager: Any, name: str) -> dict[str, Any]:
    """A task's configuration, its functions resolved."""
    return dict(_attribute(manager, "_get_config", GET_CONFIG.use)(name))


def model_name_of(manager: Any) -> str | None:
    """The name of the model that a task manager was made for."""
    return _attribute(manager, "model_name", INITIALIZE_TASKS.use)  # type: ignore[no-any-return]


def _attribute(owner: Any, name: str, use: str) -> Any:
    try:
        return getattr(owner, name)
    except AttributeError:
        raise HostError(f"{type(owner).__name__}.{name}", use) from None


def names_of_tasks(manager: Any) -> list[str]:
    """The names of all tasks, groups and tags."""
    return list(_attribute(manager, "all_tasks", ALL_TASKS.use))


def tasks_of_ours(model: str) -> list[str]:
    """The names of all tasks that a run of this model sees, lmms-eval's own left out: listing those takes seconds."""
    manager = Seam(TASKS_MODULE, "TaskManager", ALL_TASKS.use, ("include_defaults", "model_name")).take()
    return names_of_tasks(manager(include_defaults=False, model_name=model))


# Evaluations


@contextmanager
def without_its_bars() -> Iterator[None]:
    """Inside the block lmms-eval shows no bar of its own: it has two a task, and ours runs longest."""

    def hidden(*args: Any, **named: Any) -> Any:
        return tqdm(*args, **{**named, "disable": True})

    with ExitStack() as patches:
        for name in (EVALUATE.module, TASK_BASE.module):
            module = importlib.import_module(name)
            if hasattr(module, "tqdm"):  # bars are no need: one that is gone is none to hide
                patches.enter_context(mock.patch.object(module, "tqdm", hidden))
        yield


def results_of(returned: Any) -> Mapping[str, Any] | None:
    """The results in what `cli_evaluate_single` returned; None on the ranks that have none."""
    if not isinstance(returned, tuple) or len(returned) != 2:
        raise HostError("pair of results and samples as the end of an evaluation", CLI_SINGLE.use)
    results = returned[0]
    if results is not None and not {"results", "configs"} <= results.keys():
        raise HostError("results with 'results' and 'configs'", CLI_SINGLE.use)
    return results  # type: ignore[no-any-return]


def evaluation() -> Mapping[str, Any] | None:
    """What the evaluation that this call came from was asked for; None where there is none.

    lmms-eval tells its models little of it, so it is read off the stack: the local names of `simple_evaluate`.
    """
    frame = sys._getframe()
    while frame is not None:
        if frame.f_globals.get("__name__") == EVALUATE.module and frame.f_code.co_name == EVALUATE.name:
            EVALUATE.take()
            return {name: frame.f_locals.get(name) for name in _asked()}
        frame = frame.f_back  # type: ignore[assignment]
    if EVALUATE.module in sys.modules:
        EVALUATE.take(sys.modules[EVALUATE.module])  # renamed: then nothing would ever be found
    return None


def _asked() -> list[str]:
    return list(inspect.signature(EVALUATE.take()).parameters)


# Its response cache


def teach_cache(keys_of: str) -> None:
    """Makes lmms-eval's cache know what it can't: a model's method of the name `keys_of` tells a key for each request.

    The method takes the requests and returns a dictionary from (task, document, index) to a key, which becomes a part
    of the cache's own: what it kept under another is not found. Models without the method are left alone.
    """
    execute, compute = CACHE_RUN.take(), CACHE_KEY.take()
    module, owner = sys.modules[CACHE_RUN.module], CACHE_RUN.owner()
    if getattr(execute, _TAUGHT, False):
        return
    known: dict[tuple[str, int, int], str] = {}

    def taught_execute(self: Any, lm: Any, reqtype: str, requests: list[Any]) -> Any:
        tell = getattr(lm, keys_of, None)
        known.update({} if tell is None else tell(requests))
        try:
            return execute(self, lm=lm, reqtype=reqtype, requests=requests)
        finally:
            known.clear()

    def taught_key(*args: Any, **parts: Any) -> str:
        own = compute(*args, **parts)
        if not known:
            return own  # type: ignore[no-any-return]
        try:
            ours = known[parts["task_name"], parts["doc_id"], parts["idx"]]
        except KeyError:
            raise HostError("key by task, document and index for each request", CACHE_KEY.use) from None
        return hashlib.sha256(f"{own}:{ours}".encode()).hexdigest()

    setattr(taught_execute, _TAUGHT, True)
    owner.execute = taught_execute
    setattr(module, CACHE_KEY.name, taught_key)
