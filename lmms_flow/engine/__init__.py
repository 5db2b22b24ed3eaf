"""How a flow runs on a model: reference masks, intervention, self-check. Needs torch and transformers, no lmms-eval."""

from ..errors import UnsupportedModelError
from ..flow import Knockout
from .baseline import Baseline
from .decoder import decoder_layers, find_decoder
from .intervene import ENGINES, intervene
from .ledger import Ledger, ledger
from .masks import keep_masks
from .plan import RowPlan
from .selfcheck import Check, require_self_check, self_check
from .sweep import SweepResult, sweep
from .vision import VisionPasses, one_vision_pass
from .vision_count import VisionCount, counting_vision

__all__ = [
    "ENGINES",
    "Baseline",
    "Check",
    "Knockout",
    "Ledger",
    "RowPlan",
    "SweepResult",
    "UnsupportedModelError",
    "VisionCount",
    "VisionPasses",
    "counting_vision",
    "decoder_layers",
    "find_decoder",
    "intervene",
    "keep_masks",
    "ledger",
    "one_vision_pass",
    "require_self_check",
    "self_check",
    "sweep",
]
