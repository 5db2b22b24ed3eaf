"""An attention of our own that is given the reference's masks."""

from __future__ import annotations

import math
import sys
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface

from lmms_flow.engine import find_decoder
from tests.support.models import DEVICE


class ByHand:
    """An attention of our own, registered with transformers: it is given one mask a layer and nothing else.

    Softmax over the kept keys alone, written out, or (`kernel`) transformers' function with our mask; the masks that
    the model made are not looked at.
    """

    name = "lmms_flow_test_by_hand"

    def __init__(self, model: Any, masks: Tensor, kernel: str | None = None) -> None:
        self.config: Any = find_decoder(model).config
        self.masks, self.kernel = masks.to(DEVICE), kernel

    def __enter__(self) -> None:
        self.before = self.config._attn_implementation
        AttentionInterface.register(self.name, self.attend)
        self.config._attn_implementation = self.name

    def __exit__(self, *exception: object) -> None:
        self.config._attn_implementation = self.before
        del AttentionInterface._global_mapping[self.name]

    def attend(
        self, module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Any, **kwargs: Any
    ) -> tuple[Tensor, Any]:
        if self.kernel == "sdpa":
            mask = self.masks[module.layer_idx][None, None]
            return AttentionInterface()["sdpa"](module, query, key, value, mask, **kwargs)
        if self.kernel == "eager":
            mask = torch.zeros(1, 1, *self.masks.shape[1:], dtype=query.dtype, device=DEVICE)
            mask.masked_fill_(~self.masks[module.layer_idx], torch.finfo(query.dtype).min)
            eager = sys.modules[type(module).__module__].eager_attention_forward
            return eager(module, query, key, value, mask, **kwargs)
        groups = query.shape[1] // key.shape[1]
        key, value = (states.repeat_interleave(groups, dim=1) for states in (key, value))
        scores = query @ key.transpose(2, 3) * kwargs["scaling"]
        if kwargs.get("softcap"):
            scores = torch.tanh(scores / kwargs["softcap"]) * kwargs["softcap"]
        kept = self.masks[module.layer_idx]
        if kwargs.get("sliding_window"):
            near = torch.ones_like(kept).triu(1 - kwargs["sliding_window"])
            kept = kept & near
        scores = scores.masked_fill(~kept, -math.inf)
        return (scores.softmax(-1) @ value).transpose(1, 2).contiguous(), None
