"""The arms and traces of a benchmark, as tasks of their own, by one pattern of names.

For a benchmark `tvbench_flow` there are `tvbench_flow_effective`, `tvbench_flow_blind` and so on, for each of its
sub-tasks `tvbench_flow_blind_action_antonym`, and `tvbench_flow_leaderboard` with all of them beside the baseline;
`tvbench_flow_claims` has those that the claims of papers are about. In the same way there is `tvbench_flow_map` and one
for each other kind of trace, `tvbench_flow_trace` that reads all kinds, and `tvbench_flow_restoration`. They are not
files: each is the four lines that a user would write, made when lmms-eval lists its tasks.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from lmms_flow.claims.book import claim_arms
from lmms_flow.flow.controls import (
    BLIND,
    FROZEN,
    MIRRORED,
    NONE,
    RANDOM,
    REVERSED,
    SHAM,
    SHUFFLED,
    SINGLE_FRAME,
)
from lmms_flow.flow.trace_settings import KINDS, MAP, RESTORE

Index: TypeAlias = dict[str, dict[str, Any]]  # lmms-eval's: name -> type, path of its YAML, members
MADE = "lmms_flow_config"  # where an entry of the index has its configuration, in the place of a file


@dataclass(frozen=True)
class ArmTask:
    """One flow of a leaderboard; `num_frames` and `frame_order` where they are not the model's own."""

    name: str
    flow: str
    num_frames: int | None = None
    frame_order: str | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """What its task says beside its base."""
        own = {"flow": self.flow, "num_frames": self.num_frames, "frame_order": self.frame_order}
        return {name: value for name, value in own.items() if value is not None}


ARMS = (
    ArmTask(SHAM.name, SHAM.name),
    ArmTask("effective", "effective"),
    ArmTask("effective_closed", "effective_closed"),
    ArmTask("random_1", f"{RANDOM.name}:effective:seed1"),
    ArmTask("random_2", f"{RANDOM.name}:effective:seed2"),
    ArmTask("random_3", f"{RANDOM.name}:effective:seed3"),
    ArmTask(MIRRORED.name, f"{MIRRORED.name}:effective"),
    ArmTask("cross_frame_first_half", "cross_frame@first_half"),
    ArmTask("cross_frame_second_half", "cross_frame@second_half"),
    ArmTask(BLIND.name, BLIND.name),
    ArmTask(SINGLE_FRAME.name, NONE.name, num_frames=1),
    ArmTask(REVERSED.name, NONE.name, frame_order=REVERSED.name),
    ArmTask(f"{SHUFFLED.name}_1", NONE.name, frame_order=f"{SHUFFLED.name}:seed1"),
    ArmTask(FROZEN.name, NONE.name, frame_order=FROZEN.name),
)

# What the traces' names end with, and what they read out.
TRACES: Mapping[str, Sequence[str] | Mapping[str, str]] = {
    **{kind: [kind] for kind in KINDS},
    "trace": list(KINDS),
    "restoration": {"kinds": MAP, "how": RESTORE},
}


def claim_tasks(prefix: str) -> tuple[ArmTask, ...]:
    """The arms of a benchmark that the claims of papers are about; one that a leaderboard has keeps its name."""
    known = {(arm.flow, arm.frame_order or ""): arm for arm in arms_of(prefix) if arm.num_frames is None}
    return tuple(
        known.get((arm.flow, arm.frame_order))
        or ArmTask("cut_" + re.sub(r"\W+", "_", arm.flow), arm.flow, frame_order=arm.frame_order or None)
        for arm in claim_arms()
    )


# What the arms' names begin with, and the task or group that they are arms of.
BENCHMARKS = {
    "flowbench_flow": "flowbench",
    "tvbench_flow": "tvbench_flow",
    "tomato_flow": "tomato_flow",
    "videomme_flow": "videomme_flow",
    "longvideobench_flow": "longvideobench_flow",
    "longvideobench_flow_24": "longvideobench_flow_24",
    "mvbench_flow": "mvbench_flow",
}

# Beside these on public benchmarks: the share of Table 3's random row. The bundled model has none.
PAPER_ARMS = (ArmTask("random_paper", "random:paper:seed1"),)
BUNDLED = ("flowbench_flow",)

ReadConfig: TypeAlias = Callable[
    [str], Mapping[str, Any]
]  # a name of the index -> its YAML, functions unresolved


def add_arms(index: Index, read: ReadConfig) -> None:
    """Adds the arms of our benchmarks to lmms-eval's index of tasks, and makes groups of users' arms of groups.

    Names that are there already win: a user's task is never replaced.
    """
    for name in [name for name, entry in index.items() if entry["type"] == "python_task"]:
        config = read(name)
        if isinstance(config.get("base"), str) and _is_group(index, config["base"]):
            _add_group(index, read, name, config["base"], _settings(config))
    for prefix, base in BENCHMARKS.items():
        if base in index:
            _add_board(index, read, prefix, base, "leaderboard", arms_of(prefix))
            _add_board(index, read, prefix, base, "claims", claim_tasks(prefix))
            for name, trace in TRACES.items():
                _add_task(index, read, f"{prefix}_{name}", base, {"trace": copy.deepcopy(trace)})


def _add_board(
    index: Index, read: ReadConfig, prefix: str, base: str, name: str, arms: Sequence[ArmTask]
) -> None:
    """A group of arms beside their baseline."""
    names = [base]
    for arm in arms:
        names.append(f"{prefix}_{arm.name}")
        _add_task(index, read, names[-1], base, arm.settings)
    index.setdefault(f"{prefix}_{name}", _entry("group", {"group": f"{prefix}_{name}", "task": names}))


def _add_task(index: Index, read: ReadConfig, name: str, base: str, settings: Mapping[str, Any]) -> None:
    """A made task, or a group of such; a name that is there already stays what it is."""
    if name in index:
        return
    if _is_group(index, base):
        _add_group(index, read, name, base, settings)
    else:
        index[name] = _entry("python_task", _task(name, base, settings))


def arms_of(prefix: str) -> tuple[ArmTask, ...]:
    """The arms of a benchmark, by what their names begin with."""
    return ARMS if prefix in BUNDLED else ARMS + PAPER_ARMS


def _add_group(index: Index, read: ReadConfig, name: str, base: str, settings: Mapping[str, Any]) -> None:
    """A group of arms of a group's tasks, aggregated as the base aggregates them."""
    tasks = list(dict.fromkeys(leaves(index, read, base)))
    short = [sub_task(task, base) for task in tasks]
    names = short if len(set(short)) == len(short) else tasks
    members = [f"{name}_{each}" for each in names]
    for member, task in zip(members, tasks, strict=True):
        if member not in index:
            index[member] = _entry("python_task", _task(member, task, settings))
    like = base if index[base]["type"] == "group" else None
    index[name] = _entry("group", {"group": name, "task": members}, aggregated_like=like)


def leaves(index: Index, read: ReadConfig, name: str, above: frozenset[str] = frozenset()) -> Iterator[str]:
    """The tasks of a group or tag, groups in it included; the task itself where it is one."""
    entry = index.get(name)
    if entry is None or not _is_group(index, name):
        yield name
        return
    members = read(name)["task"] if entry.get("task", -1) == -1 else entry["task"]
    for member in _named(members):
        if member not in above | {name}:  # a group that holds itself is for lmms-eval to refuse
            yield from leaves(index, read, member, above | {name})


def _named(members: Any) -> Iterator[str]:
    """The names in a group's list, in which tasks and groups may also be written out."""
    for member in members:
        inner = member.get("task") if isinstance(member, Mapping) else member
        if isinstance(inner, str):
            yield inner
        elif isinstance(inner, list):
            yield from _named(inner)


def sub_task(task: str, base: str) -> str:
    """What a sub-task is called within its group: "tvbench_flow_object_count" is "object_count"."""
    return task.removeprefix(base).lstrip("_") or task


def _is_group(index: Index, name: str) -> bool:
    return name in index and index[name]["type"] in ("group", "tag")


def _settings(config: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key not in ("task", "class", "base", "include")}


def _task(name: str, base: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    return {"task": name, "base": base, **settings}


def _entry(kind: str, config: Mapping[str, Any], aggregated_like: str | None = None) -> dict[str, Any]:
    return {"type": kind, "task": -1, "yaml_path": -1, MADE: config, "aggregated_like": aggregated_like}


def made_config(index: Index, name: str, read: ReadConfig) -> dict[str, Any] | None:
    """The configuration of an arm, as lmms-eval would have read it from a file; None for a name that is a file's."""
    entry = index.get(name, {})
    if MADE not in entry:
        return None
    config = copy.deepcopy(dict(entry[MADE]))
    if entry["type"] == "python_task":
        # These import lmms-eval's tasks, which takes seconds.
        from lmms_flow.harness.flow_task import FlowTask
        from lmms_flow.harness.trace_task import TraceTask

        config["class"] = TraceTask if "trace" in config else FlowTask
    if entry["aggregated_like"]:
        aggregation = read(entry["aggregated_like"]).get("aggregate_metric_list")
        config |= {"aggregate_metric_list": aggregation} if aggregation else {}
    return config
