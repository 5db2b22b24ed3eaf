"""What a model's layers cost a row and a pair, measured on made-up prompts: no list of weights is as true.

Experts run a few of their matrices, a merged adapter none of its own, some attentions compute every pair twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import FlowError
from .decoder import decoder_layers, find_decoder
from .flops import flop_counter
from .hooks import Handles
from .layer_call import keeping
from .probe import Probe, quietly

LENGTHS = (20, 40)  # tokens; a layer costs a * n + b * n ** 2
BETWEEN = 30  # where that is checked
TOLERANCE = 0.005


@dataclass(frozen=True)
class Measured:
    """FLOPs of each layer: `a_row` for every row, `a_pair` for every (query, key) pair that a kernel computes."""

    a_row: tuple[float, ...]
    a_pair: tuple[float, ...]

    @classmethod
    def of(cls, model: nn.Module) -> Measured:
        """Runs a few short prompts. Raises FlowError where a layer's cost is not of that form."""
        with torch.inference_mode(False), quietly(model, without_blocks=True):
            tokens = Probe.of(model).clean.repeat(1, 2)
            (m, low), (n, high), (k, middle) = (
                (length, _by_layer(model, tokens[:, :length])) for length in (*LENGTHS, BETWEEN)
            )
        a_row, a_pair = [], []
        for layer, (one, other, between) in enumerate(zip(low, high, middle, strict=True), 1):
            pair = (other / n - one / m) / (n - m)
            row = one / m - pair * m
            if row <= 0 or pair < 0 or abs((row * k + pair * k * k) / between - 1) > TOLERANCE:
                raise FlowError(
                    f"the FLOPs of layer {layer} of {type(model).__name__} are not given: they don't grow "
                    "with the rows and the pairs alone"
                )
            a_row.append(row)
            a_pair.append(pair)
        return cls(tuple(a_row), tuple(a_pair))


def _by_layer(model: nn.Module, tokens: Tensor) -> list[int]:
    """What each layer costs in one forward, by torch's counter."""
    counter, handles = flop_counter(), Handles()
    layers = decoder_layers(find_decoder(model))
    spent = [0] * len(layers)

    def before(number: int) -> Any:
        def start(*call: Any) -> None:
            spent[number] -= counter.get_total_flops()

        return start

    def after(number: int) -> Any:
        def stop(*call: Any) -> None:
            spent[number] += counter.get_total_flops()

        return stop

    try:
        for number, layer in enumerate(layers):
            handles.before(layer, before(number))
            handles.after(layer, after(number))
        with counter:
            any_model: Any = model
            any_model(
                input_ids=tokens, attention_mask=torch.ones_like(tokens), **keeping(model, 1), use_cache=False
            )
    finally:
        handles.remove()
    return spent
