"""What is read out of a model's runs: curves of knockouts and the pathway that follows from them, and read-outs of layers.

`generation_probability`, `logit_lens` and `attention_to_video` take (model, inputs, layout, ...) and give named tensors;
`read_out` runs several of them in one prefill.
"""

from .attention import VideoAttention, attention_to_video
from .discovery import LayerBins, mean_relative_change, scaled_to_depth
from .lens import LogitLens, logit_lens
from .probability import GenerationProbability, generation_probability
from .reading import ReadOut, read_out

__all__ = [
    "GenerationProbability",
    "LayerBins",
    "LogitLens",
    "ReadOut",
    "VideoAttention",
    "attention_to_video",
    "generation_probability",
    "logit_lens",
    "mean_relative_change",
    "read_out",
    "scaled_to_depth",
]
