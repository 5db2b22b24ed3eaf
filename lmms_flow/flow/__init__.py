"""What is cut: groups, layers, knockouts, pathways, edge counts and leaks. Needs no torch.

The names are loaded when they are first asked for: every start of lmms-eval imports a file of this folder.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..errors import FlowError
    from .blocks import Blocks
    from .controls import CONTROLS, Control
    from .flow import Flow
    from .knockout import Knockout, Rule
    from .layers import LayerRange
    from .layout import Layout, prompt_layout
    from .pathway import BoundPathway, Pathway
    from .presets import PRESET_NAMES, PRESETS, Preset, find_preset, preset_of
    from .random_cut import RandomCut
    from .resolve import BoundFlow, ResolvedFlow
    from .routes import Route
    from .spec import FlowSpec

_HOME = {
    "FlowError": "..errors",
    "Blocks": ".blocks",
    "CONTROLS": ".controls",
    "Control": ".controls",
    "Flow": ".flow",
    "Knockout": ".knockout",
    "Rule": ".knockout",
    "LayerRange": ".layers",
    "Layout": ".layout",
    "prompt_layout": ".layout",
    "Route": ".routes",
    "BoundPathway": ".pathway",
    "Pathway": ".pathway",
    "PRESET_NAMES": ".presets",
    "PRESETS": ".presets",
    "Preset": ".presets",
    "find_preset": ".presets",
    "preset_of": ".presets",
    "RandomCut": ".random_cut",
    "BoundFlow": ".resolve",
    "ResolvedFlow": ".resolve",
    "FlowSpec": ".spec",
}  # where each name is written
__all__ = [
    "CONTROLS",
    "PRESETS",
    "PRESET_NAMES",
    "Blocks",
    "BoundFlow",
    "BoundPathway",
    "Control",
    "Flow",
    "FlowError",
    "FlowSpec",
    "Knockout",
    "LayerRange",
    "Layout",
    "Pathway",
    "Preset",
    "RandomCut",
    "ResolvedFlow",
    "Route",
    "Rule",
    "find_preset",
    "preset_of",
    "prompt_layout",
]


def __dir__() -> list[str]:
    """The public names."""
    return sorted(__all__)


def __getattr__(name: str) -> Any:
    """Loads a public name when it is first asked for."""
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(import_module(home, __name__), name)
    return found
