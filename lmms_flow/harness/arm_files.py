"""The YAML file of an arm as a user writes it: what is misspelt in it is told before lmms-eval stumbles over it."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lmms_flow.errors import RunError, nearest, one_line

CLASSES = {
    "flow": "lmms_flow.harness.flow_task.FlowTask",
    "trace": "lmms_flow.harness.trace_task.TraceTask",
}  # what an arm or a trace carries, and the class that it needs
SETTINGS = ("task", "class", "base", "flow", "trace", "num_frames", "include", "metadata")


def checked_arm(name: str, config: Any) -> Any:
    """A task's configuration, if it is no arm or one that can be made. Raises RunError."""
    if not isinstance(config, Mapping) or not isinstance(config.get("base"), str):
        return config
    carried = next((what for what in CLASSES if what in config), None)
    if "class" not in config and carried:
        raise RunError(
            f"task {name}: it has a base and a {carried} but no class; add the line  "
            f"class: !function {CLASSES[carried]}"
        )
    if "class" in config:
        for key in config:
            close = difflib.get_close_matches(str(key), SETTINGS, n=1, cutoff=0.75)
            if key not in SETTINGS and close:
                raise RunError(f"task {name}: it has no setting {key!r}; did you mean {close[0]!r}?")
    return config


@contextmanager
def told_of_an_arm(name: str, index: Mapping[str, Mapping[str, Any]]) -> Iterator[None]:
    """What a file of an arm names that is not there (a class, a module) ends the run in one line."""
    try:
        yield
    except (ImportError, AttributeError) as error:
        file = index.get(name, {}).get("yaml_path")
        text = (
            Path(file).read_text(encoding="utf-8") if isinstance(file, str) and Path(file).is_file() else ""
        )
        named = next((line.strip() for line in text.splitlines() if "!function lmms_flow" in line), None)
        if named is None:
            raise
        path = named.partition("!function ")[2].strip()
        raise RunError(
            f"task {name}: {file} names {path}, which is not there{nearest(path, CLASSES.values())} ({one_line(error)})"
        ) from None
