"""What a run says of itself, whatever the verbosity: a few lines before it, one bar, a few lines after it."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tqdm import tqdm

from lmms_flow.harness import host

LOGGED_EVERY = 60.0  # seconds between two states of the bar where nobody watches it
LONG = 100  # characters of a list in a line


def tell(lines: Iterable[str]) -> None:
    """Prints lines of ours on stderr, beside the bar and apart from the results on stdout."""
    for line in lines:
        text = f"lmms_flow: {line}"
        if sys.stderr.isatty():
            room = shutil.get_terminal_size().columns
            text = textwrap.fill(
                text, room, subsequent_indent=" " * 11, break_long_words=False, break_on_hyphens=False
            )
        print(text, file=sys.stderr, flush=True)


def progress(total: int, *, shown: bool) -> tqdm[Any]:
    """The bar of a run; in a log file it is written once a minute."""
    every = 0.1 if sys.stderr.isatty() else LOGGED_EVERY
    return tqdm(
        total=total,
        desc="lmms_flow",
        unit="sample",
        disable=not shown,
        mininterval=every,
        maxinterval=max(10.0, every),
        dynamic_ncols=True,
    )


def asked_for(requests: Sequence[Any], own_flow: str) -> list[str]:
    """How many answers a run is asked for, of which tasks, under which flows.

    Args:
        requests: of lmms-eval.
        own_flow: the model's, for tasks that carry none.
    """
    questions, tasks, flows, traced = set(), [], [], []
    for request in requests:
        if host.is_padding(request):
            continue
        given, metadata = host.arguments_of(request), request.metadata or {}
        questions.add((str(metadata.get("base") or given.task), given.split, given.doc_id))
        tasks.append(given.task)
        flows.append(str(metadata.get("flow") or own_flow))
        traced += [given.task] if metadata.get("trace") else []
    named = list(dict.fromkeys(flows))
    lines = [
        f"{len(flows):,} answers to {len(questions):,} questions of {_several(dict.fromkeys(tasks), 'task')}",
        f"{'flow' if len(named) == 1 else f'{len(named)} flows'}: {_listed(named)}",
    ]
    return lines + ([f"traces: {_listed(dict.fromkeys(traced))}"] if traced else [])


def _several(names: Iterable[str], what: str) -> str:
    listed = list(names)
    return f"{what} {listed[0]}" if len(listed) == 1 else f"{len(listed)} {what}s: {_listed(listed)}"


def _listed(names: Iterable[str]) -> str:
    """Names in a line, the first ones where there are many."""
    listed = list(names)
    text = ", ".join(listed)
    if len(text) <= LONG:
        return text
    shown = 1
    while len(", ".join(listed[: shown + 1])) <= LONG:
        shown += 1
    return f"{', '.join(listed[:shown])} and {len(listed) - shown} more"


def what_next(asked: Mapping[str, Any] | None, traced: bool) -> str:
    """The command that reads what a run writes, by the arguments of the evaluation; "" where there is none.

    Args:
        asked: what lmms-eval's evaluation was asked for.
        traced: whether arrays were kept.
    """
    arguments = None if asked is None else asked.get("cli_args")
    if arguments is None:
        return ""
    folder = getattr(arguments, "output_path", None)
    command = "report" if traced else "compare"
    if folder and getattr(arguments, "log_samples", False):
        return f"when lmms-eval has written its results: lmms-flow {command} {folder}"
    return f"to compare arms, run with --log_samples --output_path DIR, then lmms-flow {command} DIR"
