"""Bugs seeded by hand: each breaks a rule that somebody could get wrong. They stand in semantic.yaml."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import yaml

from scripts.mutate.operators import ROOT, Mutant

SEEDED = Path(__file__).with_suffix(".yaml")


def semantic_mutants() -> Iterator[Mutant]:
    """What is replaced must stand in its file exactly once: where the file has changed, the seed is looked at again."""
    for seed in yaml.safe_load(SEEDED.read_text(encoding="utf-8")):
        source = (ROOT / seed["file"]).read_text(encoding="utf-8")
        if source.count(seed["before"]) != 1:
            raise SystemExit(
                f"{seed['file']} has {source.count(seed['before'])} times, not once: {seed['before']!r}"
            )
        first = source[: source.index(seed["before"])].count("\n") + 1
        lines = range(first, first + seed["before"].count("\n") + 1)
        changed = source.replace(seed["before"], seed["after"])
        yield Mutant(seed["file"], lines, seed["rule"], changed, seed["before"].strip(), is_by_hand=True)
