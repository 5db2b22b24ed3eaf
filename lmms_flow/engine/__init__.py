"""How a flow runs on a model: reference masks, intervention, self-check. Needs torch and transformers, no lmms-eval."""

from ..flow import Knockout
from .baseline import Baseline
from .decoder import UnsupportedModelError, decoder_layers, find_decoder
from .intervene import ENGINES, intervene
from .masks import keep_masks
from .plan import RowPlan
from .selfcheck import Check, require_self_check, self_check
from .sweep import SweepResult, sweep
from .vision import VisionPasses, one_vision_pass

__all__ = [
    "ENGINES",
    "Baseline",
    "Check",
    "Knockout",
    "RowPlan",
    "SweepResult",
    "UnsupportedModelError",
    "VisionPasses",
    "decoder_layers",
    "find_decoder",
    "intervene",
    "keep_masks",
    "one_vision_pass",
    "require_self_check",
    "self_check",
    "sweep",
]
