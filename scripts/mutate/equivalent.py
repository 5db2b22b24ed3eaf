"""Mutants that change nothing that can be seen, each with the reason; they are left out of the score."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import yaml

from scripts.mutate.operators import Mutant

LISTED = Path(__file__).with_suffix(".yaml")


@cache
def _reasons() -> dict[tuple[str, str, str], str]:
    listed = yaml.safe_load(LISTED.read_text(encoding="utf-8")) or []
    return {(each["file"], each["line"], each["what"]): each["reason"] for each in listed}


def reason_of(mutant: Mutant) -> str:
    """Why nobody can see the bug, or an empty text."""
    return _reasons().get((mutant.file, mutant.text, mutant.what), "")
