"""Attention by strips: a mask made of rectangles is run as a few plain attentions over slices of the sequence.

A masked kernel computes every pair and throws the cut ones away. A strip is a run of query rows that read the same keys
before them and one another causally: its keys are sliced out, and what is left needs no mask or a small one.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.attention.bias import causal_lower_right
from transformers import AttentionInterface
from transformers.integrations.flex_attention import flex_attention_forward
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from ..flow import Blocks
from ..flow.layout import merge
from .attention_calls import registered
from .columns import send
from .decoder import decoder_layers
from .flex import block_mask, segment_of, segments_read

NAME = "lmms_flow_sdpa"
# From how many keys on FlexAttention runs a layer that takes several strips, by device (benchmarks/long.py).
FLEX_FROM = {
    "cpu": math.inf,  # strips were 1.1 to 1.4 times faster from 1,267 tokens on, as fast at 512
    "cuda": 8192,  # on an H200 one masked kernel was faster up to 4,096, FlexAttention at 16,384
}
# Up to how many keys a layer of several strips runs in one kernel under their mask, away from the CPU. There strips are
# so many kernels that starting them takes longer than all pairs of one; a mask of more keys would fill the memory.
MASK_UP_TO = 16_384
# How far FlexAttention may lie from plain SDPA, relative to the largest value. fp32 products may be run in TF32.
FLEX_TOLERANCE = {torch.float32: 5e-3, torch.float16: 2e-2, torch.bfloat16: 5e-2}
_PROVED: dict[tuple[Any, ...], bool] = {}  # kinds of tensors on which it was compared
# Rows of one masked call on a CPU, so that a mask grows with the prompt and not with its square; 64 to 1,024 rows took
# the same time.
CHUNK_ROWS = 256


@dataclass(frozen=True)
class Strip:
    """Query rows `rows` read the rows `before` whole, and one another causally where `reads_itself`."""

    rows: range
    before: tuple[range, ...]
    reads_itself: bool

    @property
    def is_causal(self) -> bool:
        """Whether it is plain causal attention over its own rows."""
        return self.reads_itself and not self.before

    @property
    def keys(self) -> tuple[range, ...]:
        """The rows whose keys it reads, its own last."""
        return merge((*self.before, self.rows)) if self.reads_itself else self.before

    def from_row(self, first: int) -> Strip | None:
        """The same strip without its rows below `first`, which then lie before it; None where no row is left."""
        if first <= self.rows.start:
            return self
        if first >= self.rows.stop:
            return None
        above = range(self.rows.start, first)
        before = merge((*self.before, above)) if self.reads_itself else self.before
        return Strip(range(first, self.rows.stop), before, self.reads_itself)


@dataclass(frozen=True)
class Strips:
    """One layer's attention in strips, in the place of its mask.

    `blocks` is the same mask among the live rows alone. Rows are counted by their keys; the first `skipped` of them
    have keys and no query.
    """

    strips: tuple[Strip, ...]
    blocks: Blocks
    skipped: int = 0

    @property
    def num_keys(self) -> int:
        """The rows that are read, which are all that entered."""
        return self.blocks.segments[-1].stop

    @property
    def is_causal(self) -> bool:
        """Whether the whole layer is plain causal, over as many queries as keys."""
        return not self.skipped and len(self.strips) == 1 and self.strips[0].is_causal

    @property
    def of_queries(self) -> tuple[Strip, ...]:
        """The strips of the rows that have a query."""
        return tuple(part for strip in self.strips if (part := strip.from_row(self.skipped)))


def live_blocks(blocks: Blocks, entering: Iterable[int]) -> Blocks:
    """A layer's blocks among the segments that enter it, which close up."""
    order = sorted(entering)
    segments: list[range] = []
    end = 0
    for s in order:
        segments.append(range(end, end + len(blocks.segments[s])))
        end = segments[-1].stop
    runs = merge(range(s, s + 1) for s in order)
    return Blocks(tuple(segments), tuple(_gather(blocks.kept[t], runs) for t in order))


def _gather(bits: int, runs: tuple[range, ...]) -> int:
    """The bits in these places of a bit set, side by side."""
    gathered = place = 0
    for run in runs:
        gathered |= (bits >> run.start & ((1 << len(run)) - 1)) << place
        place += len(run)
    return gathered


def strips_of(blocks: Blocks, entering: Iterable[int]) -> Strips:
    """The strips of one layer, for the segments that enter it."""
    live = live_blocks(blocks, entering)
    found: list[Strip] = []
    at = 0
    while at < len(live.segments):
        itself, read, before = live.reads(at, at), live.kept[at], live.kept[at] & ~(1 << at)
        stop = at + 1
        while stop < len(live.segments) and live.kept[stop] == read | itself << stop:
            read = live.kept[stop]
            stop += 1
        keys = merge(live.segments[s] for s in range(at) if before >> s & 1)
        rows = range(live.segments[at].start, live.segments[stop - 1].stop)
        found.append(Strip(rows, keys, itself))
        at = stop
    return Strips(tuple(found), live)


def strip_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, **kwargs: Any
) -> tuple[Tensor, None]:
    """SDPA attention as transformers has it, which also takes `Strips` for a mask. [batch, head, row, width] each.

    The rows of `query` are the last ones of `key`, all but the first `skipped`.
    """
    if not isinstance(attention_mask, Strips):
        out, _ = sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
        return out, None
    kwargs.pop("is_causal", None)
    if kernel_of(attention_mask, query.device) == "flex":
        return _attend_in_blocks(module, query, key, value, attention_mask, **kwargs), None
    return attend_in_strips(module, query, key, value, attention_mask, **kwargs), None


Kernel: TypeAlias = Literal["causal", "strips", "masked", "flex"]


def kernel_of(strips: Strips, device: torch.device) -> Kernel:
    """What a layer runs in on a device: one causal kernel, one a strip, one under a mask, or FlexAttention."""
    if strips.is_causal:
        return "causal"
    parts = strips.of_queries
    if len(parts) == 1:
        return "strips"  # one kernel as well
    can_compile = device.type == "cpu" or find_spec("triton") is not None
    if strips.num_keys >= FLEX_FROM.get(device.type, math.inf) and can_compile:
        return "flex"
    short = (
        2 * len(parts) > strips.num_keys - strips.skipped
    )  # under intra_frame each token of the video is a strip
    return "masked" if (short or device.type != "cpu") and strips.num_keys <= MASK_UP_TO else "strips"


def dense_mask(strips: Strips, device: torch.device, dtype: torch.dtype) -> Tensor:
    """The strips as SDPA adds a mask to the scores, [1, 1, row, key]; made on the device, from its segments.

    Its rows lie a multiple of eight apart, as CUDA's kernels want them: others they would copy at each call.
    """
    num_keys = strips.num_keys
    segments = segment_of(strips.blocks, device)[:num_keys]
    cut = send(~torch.from_numpy(segments_read(strips.blocks)), device)
    mask = torch.zeros(num_keys - strips.skipped, -(-num_keys // 8) * 8, dtype=dtype, device=device)[
        :, :num_keys
    ]
    mask.masked_fill_(cut[segments[strips.skipped :]][:, segments], -math.inf)
    later = torch.ones(mask.shape, dtype=torch.bool, device=device).triu_(strips.skipped + 1)
    return mask.masked_fill_(later, -math.inf)[None, None]


def _attend_in_blocks(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, strips: Strips, **kwargs: Any
) -> Tensor:
    """FlexAttention of a layer, [batch, row, head, width], or its strips where the kernel was found wrong.

    Kernels are compiled for a shape on the user's machine. The first layer of each kind of tensors that a process
    meets is run both ways, and a kernel that says something else than plain SDPA is not used again.
    """
    # Few rows run in a kernel of their own.
    kind = (query.device, query.dtype, query.shape[1], key.shape[1], query.shape[3], query.shape[2] < 128)
    if _PROVED.get(kind) is False:
        return attend_in_strips(module, query, key, value, strips, **kwargs)
    # Torch's compiled CPU kernel reads memory that nobody wrote where rows or keys are few (2.15: 8 of each).
    with torch.compiler.set_stance("force_eager" if query.device.type == "cpu" else "default"):
        mask = block_mask(strips.blocks, strips.skipped, query.device)
        out: Tensor = flex_attention_forward(module, query, key, value, mask, **kwargs)[0]
    if kind not in _PROVED:
        plain = attend_in_strips(module, query, key, value, strips, **kwargs)
        # a NaN is no agreement either
        _PROVED[kind] = bool((out - plain).abs().max() <= FLEX_TOLERANCE[query.dtype] * plain.abs().max())
        if not _PROVED[kind]:
            warnings.warn(
                f"torch {torch.__version__}'s FlexAttention differs from plain attention on {query.device} "
                f"({query.dtype}, {query.shape[1]} heads of {query.shape[3]}): it is not used, strips are",
                stacklevel=2,
            )
            return plain
    return out


def attend_in_strips(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, strips: Strips, **kwargs: Any
) -> Tensor:
    """Attention over slices of the sequence, [batch, row, head, width]."""
    parts = []
    for strip in strips.of_queries:
        # Rows that are there as keys alone, while all that they read themselves has left: nobody reads what they give.
        if not strip.keys:
            parts.append(value.new_zeros(len(query), len(strip.rows), query.shape[1], value.shape[-1]))
            continue
        keys, values = (_slices(states, strip.keys) for states in (key, value))
        rows = query[:, :, strip.rows.start - strips.skipped : strip.rows.stop - strips.skipped]
        for part, num_keys, mask in _calls(strip, query.device):
            out, _ = sdpa_attention_forward(
                module,
                rows[:, :, part.start : part.stop],
                keys[:, :, :num_keys],
                values[:, :, :num_keys],
                mask,
                is_causal=strip.is_causal,
                **kwargs,
            )
            parts.append(out)
    return torch.cat(parts, dim=1)


def _calls(strip: Strip, device: torch.device) -> Iterator[tuple[range, int, Tensor | None]]:
    """The kernel calls that a strip takes: some of its rows, how many of its keys they read, and their mask."""
    num_rows, num_keys = len(strip.rows), sum(map(len, strip.keys))
    if not strip.before or not strip.reads_itself or num_rows == 1:
        yield range(num_rows), num_keys, None
    elif device.type == "cuda":  # flash attention knows this triangle by its shape
        yield range(num_rows), num_keys, _triangle_by_shape(num_rows, num_keys)
    else:
        for start in range(0, num_rows, CHUNK_ROWS):
            part = range(start, min(start + CHUNK_ROWS, num_rows))
            read = num_keys - num_rows + part.stop
            yield part, read, _triangle(len(part), read, device)


def _triangle_by_shape(rows: int, keys: int) -> Tensor:
    """The same as `_triangle` without its pairs. Its sizes are set later: made with them, it would allocate them."""
    bias = causal_lower_right(1, 1)
    bias.seq_len_q, bias.seq_len_kv = rows, keys
    return bias


def _triangle(rows: int, keys: int, device: torch.device) -> Tensor:
    """Each row reads the keys up to its own, which are the last ones: bool [1, 1, row, key]."""
    staircase = _staircase(1 << (keys - 1).bit_length(), device)
    return staircase[None, None, CHUNK_ROWS - rows :, len(staircase[0]) - keys :]


@lru_cache(maxsize=4)
def _staircase(keys: int, device: torch.device) -> Tensor:
    """The triangle of a whole chunk; its lower right corners are those of smaller chunks and of fewer keys."""
    return torch.ones(CHUNK_ROWS, keys, dtype=torch.bool, device=device).tril(keys - CHUNK_ROWS)


def _slices(states: Tensor, spans: tuple[range, ...]) -> Tensor:
    parts = [states[:, :, span.start : span.stop] for span in spans]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)


@contextmanager
def strips_in(decoder: nn.Module) -> Iterator[bool]:
    """Inside the block the decoder's attention takes `Strips`; yields whether it does (it must be an `sdpa` one)."""
    config: Any = getattr(decoder, "config", None)
    shared = all(getattr(layer.self_attn, "config", None) is config for layer in decoder_layers(decoder))
    own_sdpa = (registered("sdpa"), AttentionMaskInterface()["sdpa"])
    if (
        config is None
        or not shared
        or config._attn_implementation != "sdpa"
        or own_sdpa != (sdpa_attention_forward, sdpa_mask)  # somebody registered another one under that name
    ):
        yield False
        return
    AttentionInterface.register(NAME, strip_attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    config._attn_implementation = NAME
    try:
        yield True
    finally:
        if config._attn_implementation == NAME:  # else somebody else set it inside the block, and was refused
            config._attn_implementation = "sdpa"
