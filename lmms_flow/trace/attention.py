"""Attention of chosen rows to the video, read while SDPA runs (paper, section 3.3 and Figs 6, E)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..engine.attention_rows import POOLINGS, Pooling, Weights, pooled
from ..errors import FlowError, nearest
from ..flow import Layout
from .reading import ReadOut, read_out

TARGETS = ("question", "options", "last")  # whose rows are read where nothing is said


class VideoAttention(ReadOut):
    """Of each target's rows to the video; see `attention_to_video`."""

    reads_attention = True

    def __init__(self, targets: Sequence[str] | None = None, heads: Pooling = "mean") -> None:
        if heads not in POOLINGS:
            raise FlowError(
                f"heads can be pooled by {' or '.join(POOLINGS)}, not {heads!r}{nearest(heads, POOLINGS)}"
            )
        self._targets, self._heads = targets, heads

    def begin(self, model: nn.Module, layout: Layout) -> None:
        """Finds the rows and the video in the prompt."""
        if not layout.frames:
            raise FlowError("attention to the video needs the frames' tokens, and the layout has no frames")
        self._frames = torch.tensor([len(frame) for frame in layout.frames])
        self._video = layout.groups["video"][0]
        self._rows = {name: _tokens(layout, name) for name in self._chosen(layout)}
        self._by_frame: dict[str, list[Tensor]] = {name: [] for name in self._rows}
        self._by_token: dict[str, list[Tensor]] = {name: [] for name in self._rows}

    def _chosen(self, layout: Layout) -> list[str]:
        if self._targets is None:
            return [name for name in TARGETS if name in layout.groups and layout.size(name)]
        empty = next((name for name in self._targets if not layout.size(name)), None)
        if empty is not None:
            raise FlowError(f"group {empty!r} has no tokens in this prompt: its attention can't be read")
        return list(self._targets)

    def attends(self, layer: int, weights: Weights, first: int) -> None:
        """Reduces the rows' weights to frames and to video tokens."""
        if first:
            return
        for name, rows in self._rows.items():
            video = pooled(weights, rows, self._heads)[:, self._video.start : self._video.stop]
            frames = torch.stack([part.sum(-1) for part in video.split(self._frames.tolist(), -1)], -1)
            self._by_frame[name].append(frames)
            self._by_token[name].append(video.mean(0))

    def tensors(self) -> dict[str, Tensor]:
        """`attention.<target>` and `attention.<target>.tokens`."""
        found = {}
        for name in self._rows:
            found[f"attention.{name}"] = torch.stack([each.cpu() for each in self._by_frame[name]])
            tokens = torch.stack([each.cpu() for each in self._by_token[name]])
            found[f"attention.{name}.tokens"] = tokens.half()
        return found


def attention_to_video(
    model: Any,
    inputs: Mapping[str, Any],
    layout: Layout,
    targets: Sequence[str] | None = None,
    heads: Pooling = "mean",
) -> dict[str, Tensor]:
    """How much of each target row's attention goes to each frame, and to each video token (paper, Figs 6 and E).

    Read in one prefill while SDPA runs: the weights of the chosen rows are computed again from the queries and keys of
    the very call, and reduced at once. They equal eager attention's to 1e-5 in fp32.

    Args:
        model: a VideoLLM of transformers, or what `lmms_flow.load` gave; its attention is `sdpa` or `eager`.
        inputs: the model's, for one prompt without padding.
        layout: of the prompt, with its frames.
        targets: groups whose rows are read; question, options and last by default, as far as the prompt has them.
        heads: "mean" or "max" of the heads, taken edge by edge before anything is added up.

    Returns:
        `attention.<target>`: the sum over each frame's tokens, fp32 [layer, query row, frame], and
        `attention.<target>.tokens`: the mean over the target's rows, fp16 [layer, video token]. Layers from 1.

    Raises:
        FlowError: the inputs are not the layout's prompt, or a target has no rows in it.
        UnsupportedModelError: the weights of this model's attention can't be read.
    """
    return read_out(model, inputs, layout, VideoAttention(targets, heads))


def _tokens(layout: Layout, name: str) -> Tensor:
    return torch.tensor([token for span in layout.span(name) for token in span], dtype=torch.long)
