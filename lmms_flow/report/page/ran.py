"""What was run: date, command, versions, checkpoint, numbers and device, frames, limit; and what each flow cuts."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from ...errors import FlowError
from ...flow import Flow
from ...show.drawing import layer_strip
from ..arms import Arm
from ..board import Board
from ..logs import Run, task_of
from ..table import Column, Table, percent
from .glossary import words_of_edges
from .parts import Block, Section
from .pictures import PANEL, Picture, slug

# Flags of lmms-eval that change what is answered; the others say where it is written, or how loudly.
FLAGS = ("tasks", "limit", "offset", "batch_size", "gen_kwargs", "device", "seed", "include_path")
DEFAULTS: Mapping[str, object] = {"batch_size": 1, "offset": 0, "seed": "0,1234,1234,1234"}


AT_RANDOM = "pairs drawn at random in every layer"


def ran_section(runs: Sequence[Run], boards: Sequence[Board]) -> Section:
    """The section of runs and flows."""
    table = _run_table(runs, [entry.arm for board in boards for entry in board.entries])
    found = list(_strips(boards))
    strips = tuple(picture for picture, _ in found)
    kinds = sorted(set().union(*(kinds for _, kinds in found)))
    blocks = [Block(table=table), Block(code=commands(runs))]
    if strips:
        text = (
            "What each flow cuts, layer by layer (blue: kept, orange: cut), as lmms-flow show --png draws it. Edges "
            "without a row are kept in all layers."
        )
        blocks.append(Block(text=text, words=words_of_edges(kinds), pictures=strips))
    return Section("ran", "What was run", "", tuple(blocks))


def command_of(run: Run) -> str:
    """The command that makes a run's numbers again, as far as its results file tells."""
    config = run.config
    given: Mapping[str, Any] = config.get("resolved_cli_args") or {}
    words = ["lmms-flow", "eval", "--model", run.model or "?"]
    arguments = given.get("model_args") or config.get("model_args")
    if isinstance(arguments, Mapping):
        arguments = ",".join(f"{name}={value}" for name, value in arguments.items())
    if arguments:
        words += ["--model_args", str(arguments)]
    for name in FLAGS:
        value = given.get(name, config.get(name))
        if name == "tasks" and not value:
            value = ",".join(sorted(map(task_of, run.logs)))
        text = ",".join(map(str, value)) if isinstance(value, (list, tuple)) else _number(value)
        if value not in (None, "", [], -1, -1.0) and text != str(DEFAULTS.get(name)):
            words += [f"--{name}", text]
    return shlex.join([*words, "--log_samples", "--output_path", str(run.root)])


def _number(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def commands(runs: Sequence[Run], *, traces: bool | None = None) -> tuple[str, ...]:
    """The commands of all runs, or of those with or without traces."""
    chosen = [run for run in runs if traces is None or _has_traces(run) == traces]
    return tuple(dict.fromkeys(command_of(run) for run in chosen or runs))


def _has_traces(run: Run) -> bool:
    tasks = map(task_of, run.logs)
    kinds = r"_flow_(map|trace|restoration|words|generation_probability|logit_lens|attention)(_|$)"
    return any(re.search(kinds, task) for task in tasks)


def _run_table(runs: Sequence[Run], arms: Sequence[Arm]) -> Table:
    columns = tuple(
        Column(head, right=False, raw=(head,))
        for head in ("date", "checkpoint", "run on", "frames", "limit", "logs", "versions")
    )
    rows = tuple(_run_row(run, arms) for run in runs)
    return Table("runs", "runs", columns, rows)


def _run_row(run: Run, arms: Sequence[Arm]) -> tuple[str, ...]:
    args, limit = run.model_args, run.config.get("limit")
    checkpoint = args.get("pretrained") or args.get("model") or run.model or "not written down"
    own = [arm for arm in arms if arm.checkpoint.startswith(checkpoint) and arm.runtime]
    parts = own[0].runtime.split(", ") if own else []
    numbers = ", ".join(part for part in parts if " on " in part or part.endswith("attention"))
    versions = [part for part in parts if part not in numbers.split(", ")]
    frames = sorted({str(arm.frames) for arm in own if arm.frames}) or [
        args.get("num_frames", "not written down")
    ]
    return (
        _date(run),
        checkpoint,
        numbers or "not written down",
        ", ".join(frames),
        "none, every question" if limit in (None, -1) else f"{float(limit):g} questions of each task",
        f"{len(run.logs)}",
        ", ".join(versions) or "not written down",
    )


def _date(run: Run) -> str:
    """`20261126_093512` as a person writes it."""
    found = re.fullmatch(r"(\d{4})(\d\d)(\d\d)_(\d\d)(\d\d)(\d\d).*", run.time)
    zone = (run.config.get("resolved_cli_args") or {}).get("timezone") or ""
    return "{}-{}-{} {}:{}:{}".format(*found.groups()) + f" {zone}".rstrip() if found else run.time


def _strips(boards: Sequence[Board]) -> Iterator[tuple[Picture, set[str]]]:
    """One strip a flow and depth, of those that cut something and can be read here, and the kinds of its edges."""
    done: set[tuple[str, int]] = set()
    for board in boards:
        for entry in board.entries:
            arm = entry.arm
            if not arm.num_layers or (arm.digest, arm.num_layers) in done or arm.is_baseline or arm.is_sham:
                continue
            done.add((arm.digest, arm.num_layers))
            try:
                bound = Flow.load(arm.flow, checkpoint=arm.checkpoint).bind(arm.num_layers)
            except (FlowError, OSError):
                continue  # a file that lies elsewhere; its digest is in the tables
            if bound.digest != arm.digest:
                continue  # a file that was edited since
            kinds = _kinds(bound.rules())
            figure = Figure(figsize=(PANEL[0], 0.8 + 0.22 * max(1, len(kinds))), layout="constrained")
            layer_strip(figure.subplots(), bound)
            kept = f"{percent(arm.share_kept)} % of the edges are kept"
            rules = ", ".join(bound.rules()) or AT_RANDOM
            name = slug("strip", arm.digest, arm.num_layers)
            drawn = "" if bound.rules() else f"; cut are {AT_RANDOM}"
            said = f"{entry.name} cuts {rules}; {kept}."
            yield Picture(name, f"{entry.name}: {kept}{drawn}.", said, figure), kinds


def _kinds(rules: Iterable[str]) -> set[str]:
    return {rule.partition("@")[0] for rule in rules}
