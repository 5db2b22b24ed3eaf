"""The ledger as a table: what a prefill costs under a flow, beside the same under full attention."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from ..assets import flow_tiny_dir
from ..flow import preset_of
from ..flow.shapes import SHAPES, ModelShape, llava_next_video_shape
from ..terminal import TextColumn, TextTable

if TYPE_CHECKING:
    from ..engine.ledger import Ledger


def known_shape(checkpoint: str | None) -> ModelShape | None:
    """The sizes of a checkpoint by its name; None where they are not known."""
    if checkpoint == "flow-tiny":
        return llava_next_video_shape(
            json.loads((flow_tiny_dir() / "config.json").read_text(encoding="utf-8"))
        )
    preset = preset_of(checkpoint) if checkpoint else None
    return SHAPES.get(preset.name) if preset else None


def cost_table(ledger: Ledger, name: str) -> TextTable:
    """FLOPs item by item and in total, then bytes; the last column says how many times less the flow needs."""
    flow, full = ledger.flow, ledger.full
    counts = {
        "vision tower and projector": (ledger.vision, ledger.vision),
        "decoder, linear maps": (full.linear, flow.linear),
        "decoder, attention": (full.attention, flow.attention),
        "head, one row": (full.head, flow.head),
        "total": (ledger.flops_full, ledger.flops),
    }
    rows = [
        (item, flops(before), flops(after), f"{before / after:.2f}")
        for item, (before, after) in counts.items()
    ]
    rows.append(("masks held", mebibytes(full.mask_bytes), mebibytes(flow.mask_bytes), ""))
    ratio = f"{full.cache_bytes / flow.cache_bytes:.2f}"
    rows.append(("key/value cache", mebibytes(full.cache_bytes), mebibytes(flow.cache_bytes), ratio))
    heads = ("one prefill", "full\nattention", "this flow,\nsparse engine", "times\nless")
    columns = (
        TextColumn(head, cells, right=head != heads[0])
        for head, cells in zip(heads, zip(*rows, strict=True), strict=True)
    )
    return TextTable(f"what a prefill under {name} costs", tuple(columns))


def flops(count: int) -> str:
    """`17250000000000` as "17.25 TFLOP"."""
    for prefix, size in (("T", 10**12), ("G", 10**9)):
        if count >= size:
            return f"{count / size:.2f} {prefix}FLOP"
    return f"{count / 10**6:.2f} MFLOP"


def mebibytes(count: int) -> str:
    """A number of bytes in MiB, with its unit."""
    return f"{count / 2**20:.1f} MiB"
