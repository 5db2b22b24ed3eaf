"""Tasks' YAML as the host reads it, and rows as it hands them to a task."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from lmms_flow.harness import plugin

TASKS = plugin.tasks_folder()


class Rows(list[dict[str, Any]]):
    """Rows of one configuration, as the host hands them to `process_docs`."""

    config_name = "default"

    @classmethod
    def of(cls, config: str, *rows: dict[str, Any]) -> Rows:
        made = cls(rows)
        made.config_name = config
        return made


class Loader(yaml.SafeLoader):
    """Reads `!function x.y` as the text x.y."""


Loader.add_constructor("!function", lambda loader, node: node.value)


def read(path: Path) -> dict[str, Any]:
    """A task's YAML with what it includes, as the host merges them: key by key."""
    values = yaml.load(path.read_text(), Loader=Loader)
    included = values.pop("include", None)
    return values if included is None else read(path.parent / included) | values
