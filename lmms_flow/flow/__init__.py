"""What is cut: groups, layers, knockouts, pathways, edge counts and leaks. Needs no torch."""

from ..errors import FlowError
from .blocks import Blocks
from .controls import CONTROLS, Control
from .flow import Flow
from .knockout import Knockout, Rule
from .layers import LayerRange
from .layout import Layout, prompt_layout
from .leaks import Route
from .pathway import BoundPathway, Pathway
from .presets import PRESET_NAMES, PRESETS, Preset, find_preset, preset_of
from .random_cut import RandomCut
from .resolve import BoundFlow, ResolvedFlow
from .spec import FlowSpec

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
