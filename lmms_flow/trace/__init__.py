"""What is read out of a model's runs: curves of knockouts and the pathway that follows from them, read-outs of layers.

`generation_probability`, `logit_lens` and `attention_to_video` take (model, inputs, layout, ...) and give named
tensors; `read_out` runs several of them in one prefill. A `FlowMap` holds what knockouts did to the answers of many
questions.
"""

from .attention import VideoAttention, attention_to_video
from .curves import Curve, FlowMap, MapSample, mean_by_clip, on_common_questions
from .discovery import LayerBins, mean_relative_change, scaled_to_depth
from .lens import LogitLens, logit_lens
from .probability import GenerationProbability, generation_probability
from .reading import ReadOut, read_out

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
