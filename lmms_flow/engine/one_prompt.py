"""What may be asked of one prompt by those who read its last position alone: sweeps and gate gradients."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import FlowError
from ..flow import Layout
from .layer_call import CACHE


def only_the_prompt(inputs: Mapping[str, Any], who: str) -> dict[str, Any]:
    """The inputs without what the reader sets itself. Raises FlowError for what would change what is read.

    Args:
        inputs: the model's.
        who: reads them, for messages: "a sweep".
    """
    given = {name: value for name, value in inputs.items() if value is not None}
    cache = next((name for name in CACHE if name in given), None)
    if cache is not None:
        raise FlowError(f"{who} reads the whole prompt and keeps its own cache: leave {cache} out")
    asks = next(
        (name for name in given if name.startswith(("labels", "output_")) and given[name] is not False), None
    )
    if asks is not None:
        raise FlowError(f"{who} reads probabilities of the last position alone: leave {asks} out")
    mask = given.get("attention_mask")
    if mask is not None and getattr(mask, "ndim", 0) != 2:
        raise FlowError(f"{who} takes the attention_mask as [batch, token] or none at all")
    return {
        name: value
        for name, value in given.items()
        if name not in ("use_cache", "logits_to_keep", "return_dict")
    }


def check_prompt(inputs: Mapping[str, Any], layout: Layout, who: str) -> None:
    """Raises FlowError where the inputs are not the layout's one prompt, without padding."""
    tokens = inputs.get("inputs_embeds", inputs.get("input_ids"))
    if tokens is None or tokens.shape[0] != 1:
        raise FlowError(f"{who} runs one prompt: input_ids or inputs_embeds of a batch of one")
    mask = inputs.get("attention_mask")
    if tokens.shape[1] != layout.num_tokens or (mask is not None and not bool(mask.all())):
        raise FlowError(
            f"the prompt has {tokens.shape[1]} tokens, its layout {layout.num_tokens} (without padding)"
        )
