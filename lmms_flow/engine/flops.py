"""torch's FLOP counter with formulas of our own for what some releases of torch count as nothing.

torch 2.14.1 counts 0 for attention on a CPU, and grouped products of experts have no formula at all.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

# Forward attention, by every name under which it reaches the counter; backward passes are torch's own business.
_ATTENTION = (
    "scaled_dot_product_attention",
    "_scaled_dot_product_flash_attention",
    "_scaled_dot_product_flash_attention_for_cpu",
    "_scaled_dot_product_efficient_attention",
    "_scaled_dot_product_cudnn_attention",
    "_scaled_dot_product_fused_attention_overrideable",
    "_scaled_dot_product_attention_math",
)
_GROUPED = ("_grouped_mm", "grouped_mm")


def flop_counter() -> FlopCounterMode:
    """A counter that displays nothing and counts attention by its shapes, [batch, head, row, width]."""
    formulas: dict[Any, Any] = dict.fromkeys(_ops(_ATTENTION), attention_flops)
    formulas |= dict.fromkeys(_ops(_GROUPED), grouped_flops)
    return FlopCounterMode(display=False, custom_mapping=formulas)


def attention_flops(query: Any, key: Any, value: Any, *args: Any, **kwargs: Any) -> int:
    """Scores and their sum over the values: each query head computes every pair, 2 FLOPs an entry."""
    batch, heads, rows, width = query
    return int(2 * batch * heads * rows * key[-2] * (width + value[-1]))


def grouped_flops(rows: Any, weights: Any, *args: Any, **kwargs: Any) -> int:
    """Rows in groups [row, width], each times the matrix of its group [group, width, out]."""
    return int(2 * rows[-2] * rows[-1] * weights[-1])


def _ops(names: tuple[str, ...]) -> list[Any]:
    """Those that this torch has."""
    return [getattr(torch.ops.aten, name) for name in names if hasattr(torch.ops.aten, name)]
