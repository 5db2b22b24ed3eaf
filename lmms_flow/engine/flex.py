"""FlexAttention for long prompts: a layer's mask in blocks of 128 by 128 pairs, of which the empty ones are not run.

What each block keeps is counted from the layer's segments in closed form. A tensor of all pairs is never made: at
65,536 tokens it would hold 4 GiB.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask

from ..flow import Blocks
from .columns import send

BLOCK = 128  # FlexAttention's own block, in tokens


@lru_cache(maxsize=8)  # most layers of a flow are alike
def block_mask(blocks: Blocks, skipped: int, device: torch.device) -> BlockMask:
    """The mask of a layer's live rows, from the one `skipped` on, over all of their keys, for FlexAttention.

    It equals `create_block_mask` of the dense mask: a block is full where all of its 128 x 128 pairs are kept, partial
    where some are, and left out where none is.
    """
    num_keys = blocks.segments[-1].stop
    kept = kept_pairs(blocks, skipped)
    full, partial = kept == BLOCK * BLOCK, (kept > 0) & (kept < BLOCK * BLOCK)
    segment_of_token = segment_of(blocks, device)
    reads = torch.from_numpy(segments_read(blocks)).to(device)
    first = torch.tensor(skipped, device=device)  # a number would have to be compiled in

    def mask_mod(sample: Tensor, head: Tensor, row: Tensor, key: Tensor) -> Tensor:
        token = row + first
        return reads[segment_of_token[token], segment_of_token[key]] & (key <= token)

    return BlockMask.from_kv_blocks(
        *_in_order(partial, device),
        *_in_order(full, device),
        BLOCK_SIZE=BLOCK,
        mask_mod=mask_mod,
        seq_lengths=(num_keys - skipped, num_keys),
    )


def kept_pairs(blocks: Blocks, skipped: int = 0) -> NDArray[np.float32]:
    """How many pairs are kept in each block of 128 rows and 128 keys, [row block, key block].

    The rows start at token `skipped`, the keys at 0. The last blocks may reach beyond the prompt.
    """
    num_keys = blocks.segments[-1].stop
    row_borders = np.arange(skipped, num_keys + BLOCK, BLOCK)
    key_borders = np.arange(0, num_keys + BLOCK, BLOCK)
    reads_earlier = np.tril(segments_read(blocks), -1).astype(np.float32)  # counts to 16,384 are exact
    kept = np.asarray(
        _tokens(row_borders, blocks) @ reads_earlier @ _tokens(key_borders, blocks).T, np.float32
    )
    for number, segment in enumerate(blocks.segments):
        if blocks.reads(number, number) and segment.stop > skipped:
            rows, keys = _touched(segment, skipped), _touched(segment, 0)
            kept[rows, keys] += _triangle(
                row_borders[rows.start : rows.stop + 1], key_borders[keys.start : keys.stop + 1], segment
            )
    return kept


def _tokens(borders: NDArray[np.int64], blocks: Blocks) -> NDArray[np.float32]:
    """How many tokens of each segment lie in each block, [block, segment]."""
    starts = np.array([segment.start for segment in blocks.segments])
    stops = np.array([segment.stop for segment in blocks.segments])
    shared = np.minimum(borders[1:, None], stops) - np.maximum(borders[:-1, None], starts)
    tokens: NDArray[np.float32] = np.maximum(shared, 0).astype(np.float32)
    return tokens


def _touched(segment: range, origin: int) -> slice:
    """The blocks, counted from the token `origin` on, in which a segment lies."""
    return slice(max(segment.start - origin, 0) // BLOCK, (segment.stop - 1 - origin) // BLOCK + 1)


def _triangle(
    row_borders: NDArray[np.int64], key_borders: NDArray[np.int64], segment: range
) -> NDArray[np.float32]:
    """The pairs of a segment that reads itself causally, in each block between these borders.

    The rows below x keep n(n + 1) / 2 pairs with the keys from y on, n = x - y; a block lies between four such corners.
    """
    rows, keys = (np.clip(borders, segment.start, segment.stop) for borders in (row_borders, key_borders))
    reach = np.maximum(rows[:, None] - keys, 0)
    corners = (reach * (reach + 1)) // 2
    kept: NDArray[np.float32] = -np.diff(np.diff(corners, axis=0), axis=1).astype(np.float32)
    return kept


def segments_read(blocks: Blocks) -> NDArray[np.bool_]:
    """Whether a segment reads another, [query segment, key segment]."""
    width = len(blocks.segments) // 8 + 1
    packed = np.frombuffer(b"".join(bits.to_bytes(width, "little") for bits in blocks.kept), dtype=np.uint8)
    bits = np.unpackbits(packed.reshape(-1, width), axis=1, bitorder="little")
    return bits[:, : len(blocks.segments)].astype(np.bool_)


def segment_of(blocks: Blocks, device: torch.device) -> Tensor:
    """The segment of each token; kernels may look a little beyond the last one."""
    lengths = np.array([len(segment) for segment in blocks.segments])
    lengths[-1] += BLOCK
    return send(torch.from_numpy(np.repeat(np.arange(len(lengths)), lengths)), device)


def _in_order(chosen: NDArray[np.bool_], device: torch.device) -> tuple[Tensor, Tensor]:
    """For each row block how many key blocks were chosen, [1, 1, row block], and these first, in order."""
    blocks = torch.from_numpy(chosen.astype(np.int8))[None, None]
    order = blocks.argsort(dim=-1, descending=True, stable=True)
    return blocks.sum(-1, dtype=torch.int32).to(device), order.to(torch.int32).to(device)
