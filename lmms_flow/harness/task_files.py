"""Which tasks a folder of YAMLs gives, told without lmms-eval, which takes seconds to start."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from lmms_flow.harness.arms import MADE, Index, add_arms


def index_of(folder: Path) -> Index:
    """The tasks and groups in a folder of YAMLs, with the arms that are made of them; without lmms-eval."""
    index: Index = {}
    configs: dict[str, Mapping[str, Any]] = {}
    for file in sorted(folder.rglob("*.yaml")):
        text = file.read_text(encoding="utf-8")
        config = yaml.load(text, Loader=_Names)  # a safe loader  # nosec B506
        name = config.get("group") if isinstance(config.get("task"), list) else config.get("task")
        if isinstance(name, str):
            index[name] = {"type": _type(name, config), "task": -1}
            configs[name] = config
    add_arms(index, lambda name: configs.get(name) or index[name][MADE])
    return index


def _type(name: str, config: Mapping[str, Any]) -> str:
    """What lmms-eval calls it; a task that a class makes may be of a whole group."""
    if name == config.get("group"):
        return "group"
    return "python_task" if "class" in config else "task"


class _Names(yaml.SafeLoader):
    """Reads lmms-eval's YAMLs and leaves the functions that they name alone."""


_Names.add_constructor("!function", lambda loader, node: str(node.value))
