"""Whether a vision tower sees each frame by itself: only then are frames in another order the same frames.

A tower that merges neighbouring frames, or lets them read one another, makes other pictures of them in another order;
whether an answer depends on what came first could not be told from whether those pictures mean anything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lmms_flow.engine import decoder_layers, find_decoder
from lmms_flow.engine.layer_call import LayerCall

# Relative to the largest value; half precision adds up batches of other frames in another way.
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 1e-2}


class _SeenError(Exception):
    """The first layer was reached."""


@torch.inference_mode()
def embedded(model: Any, inputs: Mapping[str, Tensor]) -> Tensor:
    """What enters the decoder's first layer, [token, width]: the prompt with the video's features in it."""
    found: list[Tensor] = []

    def before_layer(layer: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        found.append(LayerCall.read(layer, args, kwargs).hidden[0])
        raise _SeenError

    first = decoder_layers(find_decoder(model))[0]
    handle = first.register_forward_pre_hook(before_layer, with_kwargs=True)
    try:
        model(**inputs, use_cache=False)
    except _SeenError:
        pass
    finally:
        handle.remove()
    return found[0]


def mixes_frames(filmed: Tensor, shown: Tensor, spans: Sequence[range], places: Sequence[int]) -> bool:
    """Whether a frame's features depend on which frames are around it.

    Args:
        filmed: what enters the decoder with the frames as they were filmed, [token, width].
        shown: the same with frame `places[i]` in place i.
        spans: the tokens of each place.
        places: which frame is shown in each place.
    """
    scale = filmed.abs().max()
    for span, place in zip(spans, places, strict=True):
        own = spans[place]
        if len(span) != len(own):
            return True
        difference = shown[span.start : span.stop] - filmed[own.start : own.stop]
        if difference.abs().max() > TOLERANCE[filmed.dtype] * scale:
            return True
    return False
