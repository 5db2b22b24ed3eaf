"""The FLOP counter counts attention whatever torch's own table says, and experts, against known products."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention
from torch.utils import flop_counter as torchs

from lmms_flow.engine.flops import flop_counter

BATCH, HEADS, ROWS, KEYS, WIDTH = 2, 4, 24, 40, 16
KNOWN = 4 * BATCH * HEADS * ROWS * KEYS * WIDTH


def attend(**arguments: Any) -> int:
    query = torch.randn(BATCH, HEADS, ROWS, WIDTH)
    key, value = torch.randn(2, BATCH, HEADS, KEYS, WIDTH)
    with torch.no_grad(), flop_counter() as counter:
        scaled_dot_product_attention(query, key, value, **arguments)
    return counter.get_total_flops()


def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's table as in a release that forgot attention: it has no formula, or one that says 0."""
    for op in list(torchs.flop_registry):
        if "attention" in str(op):
            monkeypatch.delitem(torchs.flop_registry, op)


def count_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for op in list(torchs.flop_registry):
        if "attention" in str(op):
            monkeypatch.setitem(torchs.flop_registry, op, lambda *args, **kwargs: 0)


@pytest.mark.parametrize("broken", [None, forget, count_nothing])
@pytest.mark.parametrize("mask", [None, torch.ones(ROWS, KEYS, dtype=torch.bool).tril(KEYS - ROWS)])
def test_attention_is_counted_by_its_shapes(broken: Any, mask: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    if broken:
        broken(monkeypatch)
    assert attend(attn_mask=mask) == KNOWN
    with torch.inference_mode():
        assert attend(attn_mask=mask) == KNOWN


def test_grouped_query_heads_count_as_many_as_there_are_queries() -> None:
    query, key = torch.randn(1, 4, 8, 16), torch.randn(1, 2, 8, 16)
    with torch.no_grad(), flop_counter() as counter:
        scaled_dot_product_attention(query, key, key, enable_gqa=True)
    assert counter.get_total_flops() == 4 * 4 * 8 * 8 * 16


def test_linear_maps_beside_it_are_still_torchs_business() -> None:
    with torch.no_grad(), flop_counter() as counter:
        torch.randn(3, 5) @ torch.randn(5, 7)
    assert counter.get_total_flops() == 2 * 3 * 5 * 7
