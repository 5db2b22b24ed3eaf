"""What the page is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Options:
    """What the page is asked for. `questions` are ids of questions that get a card in any case.

    `alone`: nothing is written beside the page.
    """

    records: Sequence[str | Path] = ()
    margin: float = 0.02
    seed: int = 0
    allow_differences: bool = False
    questions: Sequence[str] = ()
    with_frames: bool = True
    alone: bool = False
