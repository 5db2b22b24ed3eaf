"""A cache layer that holds a part of the prompt's keys: what generated tokens may read under the flow of its block."""

from __future__ import annotations

from typing import Any, NoReturn, Protocol

from torch import Tensor
from transformers.cache_utils import DynamicLayer

from ..errors import FlowError


class Block(Protocol):
    """What a pruned layer asks of the block that pruned it."""

    is_open: bool


class PrunedLayer(DynamicLayer):  # type: ignore[misc]
    """Keys and values of some prompt tokens, [batch, head, token, width]; it serves its own block alone."""

    def __init__(self, layer: DynamicLayer, keys: Tensor, values: Tensor, block: Block) -> None:
        super().__init__()
        self.__dict__.update(layer.__dict__)  # as the host has set up the layer in whose place it comes
        self.keys, self.values = keys, values
        self._block = block

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Refuses every token that is not of the block: what it would read is not there."""
        if not self._block.is_open:
            raise FlowError(
                "this key/value cache was pruned under a flow whose block has ended: go on from it inside the block, "
                "or prefill with engine='dense', which keeps everything"
            )
        return super().update(key_states, value_states, *args, **kwargs)

    def crop(self, tokens: int) -> None:
        """Takes `-tokens` off the end. Raises FlowError for a length to be left, which is not that of what is held."""
        if tokens > 0:
            raise FlowError(
                f"this key/value cache was pruned under a flow, and {tokens} tokens of it can't be told from what was "
                "dropped: take tokens off its end by a negative number, such as crop(-1)"
            )
        if tokens < 0:
            super().crop(tokens)

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise FlowError(
            "a key/value cache that a flow has pruned can't be pickled: it serves its own block alone"
        )

    def __deepcopy__(self, memo: Any) -> PrunedLayer:
        return PrunedLayer(self, self.keys.clone(), self.values.clone(), self._block)
