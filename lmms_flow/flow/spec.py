"""What a flow says, before any model or prompt is known: what the language reads and everything else goes by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from .controls import NONE
from .knockout import Rule
from .pathway import Pathway
from .presets import find_preset
from .random_cut import RandomCut

Kind: TypeAlias = Literal["none", "sham", "cuts", "pathway", "random"]


@dataclass(frozen=True)
class FlowSpec:
    """A named set of attention edges to cut. `layers` is the depth that it was written for, where it says so."""

    kind: Kind
    name: str
    text: str
    rules: tuple[Rule, ...] = ()
    pathways: tuple[Pathway, ...] = ()
    random: RandomCut | None = None
    layers: int | None = None

    @property
    def needs_masks(self) -> bool:
        """Whether the model must run with masks at all; only `none` runs it untouched."""
        return self.kind != NONE.name

    @property
    def like(self) -> FlowSpec | None:
        """The pathway that a random control cuts as many edges as; None where it has a share of its own."""
        return preset_spec(self.random.like) if self.random and self.random.like else None

    def groups(self) -> tuple[str, ...]:
        """The groups that must be known in a prompt before this flow can be applied to it."""
        named = [group for rule in self.rules for group in rule.knockout.groups()]
        if self.pathways:
            named += ["video", "question"]
        if self.random:
            named += ["video", *(self.like.groups() if self.like else ())]
        return tuple(dict.fromkeys(named))


def preset_spec(name: str) -> FlowSpec:
    """The flow of a preset, by its name."""
    found = find_preset(name)
    assert found is not None, name
    preset, closed = found
    return FlowSpec("pathway", name, name, pathways=(preset.pathway(closed),), layers=preset.layers)
