"""``lmms-flow eval``: lmms-eval's own command line with our tasks known and an honest exit status.

lmms-eval ends with status 0 for an unknown task or model, an exception anywhere, and results that it could not
write. Here its inner call is watched instead: what it returned, or raised, decides.
"""

from __future__ import annotations

import contextlib
import difflib
import math
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from lmms_flow.errors import one_line
from lmms_flow.harness import host, plugin
from lmms_flow.harness.ground import task_manager
from lmms_flow.harness.interrupts import told_in_one_line
from lmms_flow.harness.sample import describe

KEPT = "answers that were given are kept in the records; the same command goes on from there"
DRY_RUN, MODEL_ARGS = "--dry-run", "--model_args"
USAGE = """\
usage: lmms-flow eval [--allow-errors] [--dry-run] --model MODEL --tasks TASKS [any other argument of lmms-eval]

Runs lmms-eval with the tasks of this package, and says by its exit status whether it worked:
0 if it did, 1 if not (also where samples failed, unless --allow-errors), 2 for a wrong command line, 130 and 143 where
Ctrl-C or SIGTERM stopped it. What was answered is kept, and the same command goes on.
--dry-run says what the run would cost (FLOPs, memory, time) and ends; it asks one question of each kind.
`lmms-eval --help` lists the arguments."""


@dataclass
class _Call:
    """One evaluation inside the host: its arguments and what became of it."""

    args: Any
    results: Mapping[str, Any] | None = None
    error: BaseException | None = None
    saved: bool = True


def main(argv: Sequence[str]) -> int:
    """Runs ``lmms-eval`` with these arguments; returns the exit status. One line on stderr tells each problem."""
    allow_errors = "--allow-errors" in argv
    arguments = [argument for argument in argv if argument not in ("--allow-errors", DRY_RUN)]
    if DRY_RUN in argv:
        arguments = _with_dry_run(arguments)
    if arguments[:1] == ["eval"]:
        arguments = arguments[1:]
    if not arguments or arguments in (["-h"], ["--help"]):
        print(USAGE, file=sys.stdout if arguments else sys.stderr)
        return 0 if arguments else 2
    from lmms_flow.harness import loop

    loop.failures.clear()
    with told_in_one_line(lambda: KEPT, tell=int(os.environ.get("RANK", 0)) == 0):
        status, calls = _run(arguments)
    problems = list(_problems(calls, dict(loop.failures), allow_errors))
    if not calls and status == 0 and not _only_prints(arguments):
        problems.append("nothing was evaluated")
    for problem in problems:
        print(f"lmms-flow eval: {one_line(problem)}", file=sys.stderr)
    return status or int(bool(problems))


def _with_dry_run(arguments: list[str]) -> list[str]:
    """The same with the argument of our models that asks for it."""
    for place, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if name != MODEL_ARGS:
            continue
        if equals:
            return [*arguments[:place], f"{name}={_joined(value)}", *arguments[place + 1 :]]
        return [*arguments[: place + 1], _joined(*arguments[place + 1 : place + 2]), *arguments[place + 2 :]]
    return [*arguments, MODEL_ARGS, "dry_run=true"]


def _joined(given: str = "") -> str:
    return ",".join(filter(None, (given, "dry_run=true")))


def _run(arguments: list[str]) -> tuple[int, list[_Call]]:
    """The host's own status, and what was seen of its evaluations."""
    calls: list[_Call] = []
    original, cli_evaluate = host.CLI_SINGLE.take(), host.CLI_EVALUATE.take()

    def watched(args: Any = None) -> Any:
        call = _Call(args)
        calls.append(call)
        before = _result_files(args)
        try:
            returned = original(args)
        except BaseException as error:
            call.error = error
            raise
        call.results = host.results_of(returned)
        call.saved = call.results is None or not args.output_path or _result_files(args) != before
        return returned

    with (
        plugin.tasks_for_all_models(),
        mock.patch.object(sys.modules[host.CLI_SINGLE.module], host.CLI_SINGLE.name, watched),
        mock.patch.object(sys, "argv", ["lmms-eval", *arguments]),
        host.without_its_bars(),
    ):
        try:
            cli_evaluate()
        except SystemExit as stop:
            return _status(stop), calls
        except Exception as error:  # outside of an evaluation, or any under --verbosity DEBUG
            if not any(call.error is error for call in calls):
                calls.append(_Call(None, error=error))
            return 1, calls
    return 0, calls


def _status(stop: SystemExit) -> int:
    if stop.code is None or isinstance(stop.code, int):
        return stop.code or 0
    print(stop.code, file=sys.stderr)
    return 1


def _problems(calls: list[_Call], failures: Mapping[str, int], allow_errors: bool) -> Iterator[str]:
    failed = dict(failures)
    for call in calls:
        if isinstance(call.error, SystemExit):
            if call.args is not None and call.args.tasks is None:
                yield "no task is named; --tasks is missing"
        elif call.error is not None:
            yield _explain(call.error, call.args)
        elif call.results is None:
            if int(os.environ.get("RANK", 0)) == 0:  # the other ranks have none
                yield "lmms-eval returned no results"
        else:
            if not call.saved:
                yield f"the results could not be written to {call.args.output_path}"
            for task in call.results["configs"]:
                metrics = call.results["results"].get(task, {})
                failed[task] = max(failed.get(task, 0), int(metrics.get("errors,none", 0) or 0))
                if not _has_score(metrics) and not failed[task]:
                    yield f"task {task} has no scored sample"
    failed = {task: count for task, count in failed.items() if count}
    if failed and not allow_errors and not any(isinstance(call.error, SystemExit) for call in calls):
        tasks = ", ".join(f"{task}: {count}" for task, count in sorted(failed.items()))
        yield f"{sum(failed.values())} of the samples failed ({tasks}); --allow-errors accepts that"


def _has_score(metrics: Mapping[str, Any]) -> bool:
    """Whether any metric has a value; our tasks have no accuracy where no sample was answered."""
    if "errors,none" in metrics and "unreadable,none" in metrics:
        return _is_value(metrics.get("accuracy,none"))
    scores = {name: value for name, value in metrics.items() if "," in name and "_stderr" not in name}
    return any(_is_value(value) for value in scores.values())


def _is_value(value: Any) -> bool:
    if isinstance(value, float):
        return not math.isnan(value)
    return value is not None and value != [] and value != ""


def _explain(error: BaseException, args: Any) -> str:
    """One line for an exception; for a name that there is not, the nearest that there is."""
    text = str(error)
    if "not found in available models" in text:
        known = host.LIST_MODELS.take()(include_aliases=True)
        return f"there is no model {args.model!r}{_nearest(args.model, known)}"
    if text.startswith("Tasks not found: "):
        missing = text.removeprefix("Tasks not found: ").partition(". Try")[0]
        manager = task_manager()
        known = host.names_of_tasks(manager) if manager is not None else ()
        return f"there is no task {missing!r}{_nearest(missing.partition(',')[0], known)}"
    return describe(error)


def _nearest(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""


def _only_prints(arguments: Sequence[str]) -> bool:
    return any(argument in ("-h", "--help") or argument.startswith("--power") for argument in arguments)


def _result_files(args: Any) -> set[tuple[Path, int]]:
    """The host only logs where it can't write its results, so their files and times of change are compared.

    Its names have seconds: a second run in the same one writes the same file.
    """
    if args is None or not args.output_path:
        return set()
    with contextlib.suppress(OSError):
        return {(file, file.stat().st_mtime_ns) for file in Path(args.output_path).rglob("*_results.json")}
    return set()
