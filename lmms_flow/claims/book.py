"""The claims, read from the YAML files beside this one: what is predicted of which arm, and where a paper says it.

A prediction is about the accuracy of an arm against full attention, or against another arm, on the same questions:

    predicts: {drop: 0.02}                        it loses at least two points of accuracy
    predicts: {within: 0.02}                      it loses and wins less than two points
    predicts: {drop: 0.02, beyond: {flow: ...}}   it loses at least two points more than that arm
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from ..flow.controls import NONE

FOLDER = Path(__file__).parent


@dataclass(frozen=True, order=True)
class ClaimArm:
    """An arm that a claim is about: a flow, or full attention of frames in another order."""

    flow: str = NONE.name
    frame_order: str = ""

    @property
    def settings(self) -> dict[str, str]:
        """What its task says beside its base."""
        return {"flow": self.flow} | ({"frame_order": self.frame_order} if self.frame_order else {})

    def __str__(self) -> str:
        return f"{self.flow}, {self.frame_order}" if self.frame_order else self.flow


@dataclass(frozen=True)
class Claim:
    """One prediction.

    Args:
        name: of the claim, unique among all.
        paper, source: the paper's title, and where it was published.
        says: the claim in a sentence.
        where: what of the paper says it, with its numbers where it gives them.
        arm: what is run.
        size: a share of accuracy; of a drop at least this much is predicted, else less than this much either way.
        is_drop: whether a drop is predicted.
        beyond: the arm than which it loses more; full attention where there is none.
    """

    name: str
    paper: str
    source: str
    says: str
    where: str
    arm: ClaimArm
    size: float
    is_drop: bool
    beyond: ClaimArm | None = None

    @property
    def arms(self) -> tuple[ClaimArm, ...]:
        """The arms that have to be run beside full attention."""
        return (self.arm,) if self.beyond is None else (self.arm, self.beyond)

    @property
    def predicted(self) -> str:
        """The prediction in a few words, in points of accuracy."""
        points = f"{100 * self.size:g}"
        if not self.is_drop:
            return f"within ±{points}"
        if self.beyond is None:
            return f"loses {points} or more"
        return f"loses {points} more than {self.beyond}"


@lru_cache(maxsize=1)
def claims() -> tuple[Claim, ...]:
    """All claims, paper by paper."""
    return tuple(claim for path in sorted(FOLDER.glob("*.yaml")) for claim in _read(path))


@lru_cache(maxsize=1)
def claim_arms() -> tuple[ClaimArm, ...]:
    """The arms that they need, each once, in the order in which they are first named."""
    return tuple(dict.fromkeys(arm for claim in claims() for arm in claim.arms))


def _read(path: Path) -> Iterator[Claim]:
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    for one in content["claims"]:
        predicts: Mapping[str, Any] = one["predicts"]
        beyond = predicts.get("beyond")
        yield Claim(
            name=one["name"],
            paper=content["paper"],
            source=content["source"],
            says=one["says"],
            where=one["where"],
            arm=ClaimArm(**one["arm"]),
            size=float(predicts.get("drop", predicts.get("within"))),
            is_drop="drop" in predicts,
            beyond=None if beyond is None else ClaimArm(**beyond),
        )
