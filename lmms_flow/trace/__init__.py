"""What is read out of a model's runs: curves of knockouts, and the pathway that follows from them."""

from .curves import Curve, FlowMap, MapSample, mean_by_clip, on_common_questions
from .discovery import LayerBins, mean_relative_change, scaled_to_depth

__all__ = [
    "Curve",
    "FlowMap",
    "LayerBins",
    "MapSample",
    "mean_by_clip",
    "mean_relative_change",
    "on_common_questions",
    "scaled_to_depth",
]
