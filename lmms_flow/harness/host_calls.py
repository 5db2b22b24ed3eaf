"""What is put around two functions of lmms-eval: where it would lose a task, or the exit status of a run."""

from __future__ import annotations

import functools
import inspect
import sys
import traceback
from collections.abc import Callable, MutableMapping
from typing import Any

from lmms_flow.errors import RunError
from lmms_flow.harness import host

_MARK = "_lmms_flow_is_around"


def before_tasks(do: Callable[[Any, MutableMapping[str, Any]], None]) -> None:
    """Calls `do` with the model and the nested dictionary of tasks, before lmms-eval runs these."""
    original, module = host.RUN_TASKS.take(), sys.modules[host.RUN_TASKS.module]
    if getattr(original, _MARK, False):
        return

    @functools.wraps(original)
    def evaluate(*args: Any, **asked: Any) -> Any:
        given = inspect.signature(original).bind_partial(*args, **asked).arguments
        do(given.get("lm"), given.get("task_dict") or {})
        return original(*args, **asked)

    setattr(evaluate, _MARK, True)
    setattr(module, host.RUN_TASKS.name, evaluate)


def end_with_a_status(is_ours: Callable[[Any], bool]) -> None:
    """Has an exception that ends an evaluation of lmms-eval's command line end the program with status 1.

    lmms-eval prints it and ends with 0. `is_ours` is asked of the model, and of no other is anything changed. Nothing
    is done where no evaluation can follow.
    """
    module = sys.modules.get(host.EVALUATE.module)
    original = None if module is None else host.EVALUATE.take(module)
    if original is None or getattr(original, _MARK, False):
        return

    @functools.wraps(original)
    def simple_evaluate(*args: Any, **asked: Any) -> Any:
        try:
            return original(*args, **asked)
        except Exception as error:
            given = inspect.signature(original).bind_partial(*args, **asked).arguments
            if not _is_command_line() or not is_ours(given.get("model")):
                raise
            traceback.print_exception(error)
            from lmms_flow.harness.sample import describe  # the records, which no start needs

            raise RunError(f"the evaluation ended: {describe(error)}") from error

    setattr(simple_evaluate, _MARK, True)
    setattr(module, host.EVALUATE.name, simple_evaluate)


def _is_command_line() -> bool:
    """Whether this call came from lmms-eval's command line, whose module has two names."""
    frame: Any = sys._getframe()
    while frame is not None:
        package = frame.f_globals.get("__package__")
        if (
            frame.f_code.co_name == host.CLI_SINGLE.name
            and package == host.CLI_SINGLE.module.partition(".")[0]
        ):
            return True
        frame = frame.f_back
    return False
