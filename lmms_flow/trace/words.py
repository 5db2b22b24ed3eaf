"""Words in the logit lens: the paper's lists, how often they come up by layer, and a frame's words in their places.

Appendix, Table D and Fig 4; Fig 5 for words on frames.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isqrt
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from ..errors import FlowError, nearest
from ..flow import Layout

# Table D. A word counts by its first token: "blank" is what is seen of a blanket in LLaMA's vocabulary.
SPATIAL = (
    "bag", "bed", "blank", "book", "box", "cabinet", "camera", "clothes", "cup", "door", "floor", "food", "glass",
    "laptop", "paper", "person", "phone", "sandwich", "table",
)  # fmt: skip
TEMPORAL = (
    "close", "down", "drink", "eat", "hold", "on", "open", "put", "sit", "take", "throw", "tidy", "up",
)  # fmt: skip
# The lists of the released code, before words with few hits are dropped.
RELEASED_SPATIAL = (
    "bag", "bed", "blanket", "book", "box", "cabinet", "camera", "clothes", "cup", "glass", "bottle", "dish", "door",
    "floor", "food", "laptop", "paper", "person", "phone", "sandwich", "table",
)  # fmt: skip
RELEASED_TEMPORAL = (
    "eat", "close", "do", "down", "drink", "hold", "on", "open", "put", "sit", "throw", "tidy", "take", "up",
)  # fmt: skip
PAPER_BIN = 5  # layers
PAPER_HITS = 100  # a word that comes up less often in all is left out

Bins: TypeAlias = Literal["exact", "paper"]
BINS = ("exact", "paper")


def word_tokens(tokenizer: Any, words: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """The tokens that count for each word: its first one, as it stands alone and behind a space.

    Words count by their first token, as in the paper: a word of several is counted wherever that one comes up.
    """
    vocabulary = tokenizer.get_vocab()
    found = {}
    for word in words:
        ids = tokenizer(f" {word}", add_special_tokens=False)["input_ids"]
        pieces = (tokenizer.decode([token]).strip() for token in ids)
        piece = next((piece for piece in pieces if piece), None)
        if piece is None:
            raise FlowError(f"the word {word!r} has no token")
        forms = (piece, f"▁{piece}", f"Ġ{piece}")
        tokens = {vocabulary[form] for form in forms if form in vocabulary}
        first = next(token for token in ids if tokenizer.decode([token]).strip())
        found[word] = tuple(sorted(tokens | {first}))
    return found


def count_words(tokens: Tensor, words: Mapping[str, Sequence[int]]) -> Tensor:
    """How many video tokens have each word for their most probable token: int64 [word, layer].

    `tokens` is `logit_lens.tokens` [layer, video token, k] of a sample, `words` what `word_tokens` gave. Counts of
    several samples are added up.
    """
    first = tokens[..., 0]
    counted = [torch.isin(first, torch.tensor(list(ids))).sum(-1) for ids in words.values()]
    return torch.stack(counted) if counted else torch.zeros(0, len(tokens), dtype=torch.long)


def layer_bins(num_layers: int, width: int = PAPER_BIN, bins: Bins = "exact") -> tuple[range, ...]:
    """Bins of layers (from 1). `exact`: 1-5, 6-10, ...; `paper`: 1-6, 6-11, ..., as the released code adds them up.

    It calls them 1-5, 6-10, ..., but each takes in the next one's first layer.
    """
    if bins not in BINS:
        raise FlowError(f"there are no bins {bins!r}{nearest(bins, BINS)} (bins: {', '.join(BINS)})")
    if width < 1 or num_layers < 1:
        raise FlowError(f"bins have at least one layer, not {min(width, num_layers)}")
    more = bins == "paper"
    starts = range(1, num_layers + 1, width)
    return tuple(range(first, min(first + width + more, num_layers + 1)) for first in starts)


@dataclass(frozen=True, eq=False)
class WordFrequencies:
    """Where in the layers words come up (paper, Fig 4).

    Args:
        words: those that came up often enough.
        bins: ranges of layers.
        shares: fp64 [word, bin]; each word's sum to 1.
        mean: over the words, [bin].
    """

    words: tuple[str, ...]
    bins: tuple[range, ...]
    shares: Tensor
    mean: Tensor


def word_frequencies(
    counts: Tensor,
    words: Sequence[str],
    *,
    bins: Bins = "exact",
    width: int = PAPER_BIN,
    at_least: int = PAPER_HITS,
    layers: Sequence[int] | None = None,
) -> WordFrequencies:
    """How each word's hits are spread over bins of layers, words with fewer than `at_least` hits left out.

    Args:
        counts: [word, layer], of all samples together.
        words: their names.
        bins: "exact", or "paper" for the released code's, which overlap by a layer.
        width: layers in a bin.
        at_least: hits of a word over all layers.
        layers: that the lens read, the last one of the model with them; all by default. Bins with more of them weigh
            more.

    Raises:
        FlowError: the counts are not of these words, or there are no such bins.
    """
    if len(counts) != len(words):
        raise FlowError(f"counts of {len(counts)} words were given with {len(words)} names")
    read = _read_layers(counts.shape[1], layers)
    ranges = layer_bins(max(read), width, bins)
    often = [place for place, row in enumerate(counts) if int(row.sum()) >= max(1, at_least)]
    entries = [[place for place, layer in enumerate(read) if layer in span] for span in ranges]
    summed = torch.stack([counts[often][:, each].sum(-1) for each in entries], -1)
    shares = summed.double() / summed.sum(-1, keepdim=True)
    mean = shares.mean(0) if often else torch.zeros(len(ranges), dtype=torch.double)
    return WordFrequencies(tuple(words[place] for place in often), ranges, shares, mean)


def words_on_frame(
    tokenizer: Any,
    tokens: Tensor,
    layout: Layout,
    frame: int,
    layer: int,
    *,
    shape: tuple[int, int] | None = None,
    before: int = 0,
    layers: Sequence[int] | None = None,
) -> list[list[str]]:
    """The most probable word of each patch of a frame, row by row (paper, Fig 5).

    Args:
        tokenizer: of the model.
        tokens: `logit_lens.tokens`, [layer, video token, k].
        layout: of the prompt.
        frame: from 0, as in `frame.0`.
        layer: from 1.
        shape: rows and columns of the frame's patches; a square by default.
        before: tokens of the frame that stand in front of its patches (a time stamp, a separator).
        layers: that the lens read; all by default.

    Raises:
        FlowError: there is no such frame or layer, or its tokens are no such grid.
    """
    (span,) = layout.span(f"frame.{frame}")
    read = _read_layers(len(tokens), layers)
    if layer not in read:
        has = f"1-{len(tokens)}" if layers is None else ", ".join(map(str, read))
        raise FlowError(f"layer {layer} does not exist, the lens has layers {has}")
    patches = len(span) - before
    side = isqrt(max(0, patches))
    rows, columns = (side, side) if shape is None else shape
    if rows * columns < 1 or rows * columns > patches or (shape is None and side * side != patches):
        raise FlowError(
            f"frame {frame} has {patches} tokens behind its first {before}, which are no grid of {rows} x {columns}: "
            "say its shape=(rows, columns), and how many tokens stand before it"
        )
    start = span.start - layout.groups["video"][0].start + before
    top = tokens[read.index(layer), start : start + rows * columns, 0].tolist()
    words = [tokenizer.decode([token]).strip() for token in top]
    return [words[row * columns : (row + 1) * columns] for row in range(rows)]


def _read_layers(count: int, layers: Sequence[int] | None) -> list[int]:
    read = list(range(1, count + 1)) if layers is None else list(layers)
    if len(read) != count:
        raise FlowError(f"the lens read {count} layers, and {len(read)} are named")
    return read


def frame_names(layout: Layout, num_frames: int) -> tuple[str, ...]:
    """What each of the layout's frames is of the frames that were read, from 0: "frame 3", or "frames 6-7".

    Some models merge frames in pairs (Qwen's): their layout has one frame for two. Raises FlowError where the frames
    that were read can't be shared out to the layout's.
    """
    count = len(layout.frames)
    each = -(-num_frames // count) if count else 0
    if not count or num_frames < count or -(-num_frames // each) != count:
        raise FlowError(f"{num_frames} frames can't be those of a layout with {count}")
    spans = [range(first, min(first + each, num_frames)) for first in range(0, num_frames, each)]
    return tuple(f"frame {s[0]}" if len(s) == 1 else f"frames {s[0]}-{s[-1]}" for s in spans)
