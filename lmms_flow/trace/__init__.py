"""What is read out of a model's runs: curves of knockouts and the pathway that follows from them, read-outs of layers.

`generation_probability`, `logit_lens` and `attention_to_video` take (model, inputs, layout, ...) and give named
tensors; `read_out` runs several of them in one prefill. `words` has what is counted and drawn of a lens. A `FlowMap`
holds what knockouts did to the answers of many questions. The names are loaded when they are first asked for: what
reads a map that ran needs no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .attention import VideoAttention, attention_to_video
    from .bins import LayerBins
    from .curves import Curve, FlowMap, MapSample, mean_by_clip, on_common_questions
    from .discovery import mean_relative_change, scaled_to_depth
    from .lens import LogitLens, logit_lens
    from .probability import GenerationProbability, generation_probability
    from .reading import ReadOut, read_out

_HOME = {
    "VideoAttention": ".attention",
    "attention_to_video": ".attention",
    "LayerBins": ".bins",
    "Curve": ".curves",
    "FlowMap": ".curves",
    "MapSample": ".curves",
    "mean_by_clip": ".curves",
    "on_common_questions": ".curves",
    "mean_relative_change": ".discovery",
    "scaled_to_depth": ".discovery",
    "LogitLens": ".lens",
    "logit_lens": ".lens",
    "GenerationProbability": ".probability",
    "generation_probability": ".probability",
    "ReadOut": ".reading",
    "read_out": ".reading",
}  # where each name is written
__all__ = [
    "Curve",
    "FlowMap",
    "GenerationProbability",
    "LayerBins",
    "LogitLens",
    "MapSample",
    "ReadOut",
    "VideoAttention",
    "attention_to_video",
    "generation_probability",
    "logit_lens",
    "mean_by_clip",
    "mean_relative_change",
    "on_common_questions",
    "read_out",
    "scaled_to_depth",
]


def __getattr__(name: str) -> Any:
    """Loads a public name when it is first asked for."""
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(import_module(home, __name__), name)
    return found
