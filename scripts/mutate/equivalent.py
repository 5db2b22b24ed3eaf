"""Mutants that change nothing that can be seen, each with the reason; they are left out of the score."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

LISTED = Path(__file__).with_suffix(".yaml")
Key = tuple[str, str, int, str]


@cache
def _reasons() -> dict[Key, str]:
    listed = yaml.safe_load(LISTED.read_text(encoding="utf-8")) or []
    return {(each["file"], each["line"], each.get("at", 0), each["what"]): each["reason"] for each in listed}


def reason_of(line: Mapping[str, Any]) -> str:
    """Why nobody can see the bug of a line of the results, or an empty text."""
    if line["text"].startswith("@dataclass("):
        return "a declaration: nothing assigns to the class's fields"
    if line["text"][: line["at"]].endswith("strict="):
        return "a guard: both have one length"
    return _reasons().get((line["file"], line["text"], line["at"], line["what"]), "")


def entry_of(line: Mapping[str, Any]) -> str:
    """What the list would say of it, without the reason."""
    fields = {"file": line["file"], "line": line["text"], "at": line["at"], "what": line["what"]}
    return yaml.safe_dump([fields], sort_keys=False, width=1000)
