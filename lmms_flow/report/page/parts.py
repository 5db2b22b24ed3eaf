"""What a page is made of: sections, each of them blocks: a table, pictures side by side, a row of frames."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from ..table import Table
from .pictures import Picture


@dataclass(frozen=True)
class Block:
    """One piece of a section; what it has not is empty.

    `fold` puts it behind a click, under that title; `words` are words with their meanings.
    """

    table: Table | None = None
    pictures: tuple[Picture, ...] = ()
    frames: tuple[FrameRow, ...] = ()
    text: str = ""
    code: tuple[str, ...] = ()
    words: tuple[tuple[str, str], ...] = ()
    fold: str = ""


@dataclass(frozen=True)
class FrameRow:
    """Frames of a video in one image, as a data: address; `alt` says what they show."""

    source: str
    alt: str
    caption: str


@dataclass(frozen=True)
class Section:
    """A section of the page. `commands` made its numbers."""

    name: str
    title: str
    lead: str
    blocks: tuple[Block, ...]
    commands: tuple[str, ...] = field(default=())


def joined(words: Sequence[str]) -> str:
    """`a, b and c`."""
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))


def short_checkpoint(name: str) -> str:
    """The last part of a repository id or folder."""
    return re.split(r"[/\\]", name.rstrip("/\\"))[-1] or name


def asked_of(benchmark: str, checkpoint: str, frames: int, protocol: str = "") -> str:
    """Whose read-outs something shows: benchmark and model, and what else was asked for of each question."""
    parts = (
        benchmark,
        short_checkpoint(checkpoint),
        f"{frames} frame{'s' * (frames != 1)}" if frames else "",
        f"{protocol} protocol" if protocol else "",
    )
    return ", ".join(filter(None, parts))
