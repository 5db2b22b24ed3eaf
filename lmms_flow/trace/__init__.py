"""What is read out of a model's runs.

Curves of knockouts, and the pathway that follows from them. Read-outs of the layers of one prefill:
`generation_probability`, `logit_lens` and `attention_to_video` take (model, inputs, layout, ...) and give named
tensors; `read_out` runs several of them in one prefill. `words` has what is counted and drawn of a lens.
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
