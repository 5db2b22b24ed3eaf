"""How a flow runs on a model: reference masks, intervention, self-check. Needs torch and transformers, no lmms-eval.

One sparse prefill, from the outside in:

1. `intervene` binds the flow to the decoder's depth and resolves it on the prompt's layout (`flow/`).
2. `mechanisms` looks at what the layers do besides attention, `windows` at what they never see; `proof` tries a cut on
   a made-up prompt. What does not fit is refused here.
3. `plan` walks the layers backwards from the last token: a row lives in a layer if a later layer reads it.
4. The model is called. `contract` checks the call against the layout, `layer_call` reads its parts by their names.
5. Each forward is a step. In `prefill`, before each layer, the rows that nobody reads any more are taken out: states,
   rotary embeddings, positions. Rows are told by numbers on the host (`columns`): nothing is read back from a GPU.
6. In the layer, a mask made of rectangles runs as `strips` says: slices of plain attention, one masked
   kernel, or `flex`.
7. The cache keeps the rows that generated tokens may read (`pruned`). With a `Baseline` the first layers are not run at
   all: its states go in where the flow leaves full attention (`departure`, `fork`).
8. Decoding goes on from that cache, each generated token under the cuts of the last prompt token.

`dense` does the same with whole masks and all rows: the reference. `ledger` counts what was run, from the same plan.
"""

from ..errors import UnsupportedModelError
from ..flow import Knockout
from .baseline import Baseline
from .decoder import decoder_layers, find_decoder
from .intervene import ENGINES, intervene
from .ledger import Ledger, ledger
from .masks import keep_masks
from .mechanisms import check_layers
from .plan import RowPlan
from .restoring import RestorationResult, restore
from .selfcheck import Check, require_self_check, self_check
from .sweep import SweepResult, sweep
from .vision import VisionPasses, counting_vision, one_vision_pass

__all__ = [
    "ENGINES",
    "Baseline",
    "Check",
    "Knockout",
    "Ledger",
    "RestorationResult",
    "RowPlan",
    "SweepResult",
    "UnsupportedModelError",
    "VisionPasses",
    "check_layers",
    "counting_vision",
    "decoder_layers",
    "find_decoder",
    "intervene",
    "keep_masks",
    "ledger",
    "one_vision_pass",
    "require_self_check",
    "restore",
    "self_check",
    "sweep",
]
