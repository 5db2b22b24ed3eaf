"""Read-outs of one prompt: what each of them is, and several of them in one prefill."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..engine.recorder import Reader, record
from ..flow import Layout


class ReadOut(Reader):
    """Something that is read out of one prefill, as named tensors on the CPU."""

    generated = 0  # rows of generated tokens that it reads

    def tensors(self) -> dict[str, Tensor]:
        """What was read, once the prefill is over; each read-out says the axes, such as [layer, option]."""
        raise NotImplementedError


def read_out(model: Any, inputs: Mapping[str, Any], layout: Layout, *readouts: ReadOut) -> dict[str, Tensor]:
    """Several read-outs in one prefill, which costs less than one after another.

        >>> read_out(model, inputs, layout, GenerationProbability(letters), LogitLens(), VideoAttention())

    Args:
        model: a VideoLLM of transformers, or what `lmms_flow.load` gave. Inside a block of `intervene` its flow is
            read out; every row is then computed, also under engine="sparse".
        inputs: the model's, for one prompt without padding; `input_ids` [1, token].
        layout: of the prompt.
        readouts: `GenerationProbability`, `LogitLens`, `VideoAttention`.

    Returns:
        The named tensors of all of them; with rows of generated tokens also `generated.tokens`, int32 [row].

    Raises:
        FlowError: the inputs are not the layout's prompt, or a read-out does not fit them.
        UnsupportedModelError: something can't be read exactly in this model.
    """
    generated = max((each.generated for each in readouts), default=0)
    tokens = record(model, inputs, layout, readouts, generated)
    found = {name: tensor for each in readouts for name, tensor in each.tensors().items()}
    if generated:
        found["generated.tokens"] = torch.tensor(tokens[:-1], dtype=torch.int32)
    return found
