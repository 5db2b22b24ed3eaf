"""Attention of chosen rows to the video, read while SDPA runs (paper, section 3.3 and Figs 6, E)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..engine.attention_rows import POOLINGS, Pooling, Weights, pooled
from ..engine.columns import send
from ..engine.decoder import decoder_layers, find_decoder
from ..errors import FlowError, nearest
from ..flow import Layout
from .reading import ReadOut, read_out

TARGETS = ("question", "options", "last")  # whose rows are read where nothing is said
GENERATED = "generated"  # the rows of the answer's tokens
NEW_TOKENS = 8


class VideoAttention(ReadOut):
    """Of each target's rows to the video; see `attention_to_video`."""

    reads_attention = True

    def __init__(
        self,
        targets: Sequence[str] | None = None,
        heads: Pooling = "mean",
        new_tokens: int = NEW_TOKENS,
    ) -> None:
        if heads not in POOLINGS:
            near = nearest(heads, POOLINGS)
            raise FlowError(f"heads can't be pooled by {heads!r}{near} (pooling: {', '.join(POOLINGS)})")
        if isinstance(targets, str):
            raise FlowError(f"targets are a list of groups: write [{targets!r}]")
        if not isinstance(new_tokens, int) or new_tokens < 1:
            raise FlowError(f"new_tokens is a number of generated tokens, 1 or more, not {new_tokens!r}")
        self._targets, self._heads = targets, heads
        self.generated = new_tokens if targets is not None and GENERATED in targets else 0

    def begin(self, model: nn.Module, layout: Layout) -> None:
        """Finds the rows and the video in the prompt."""
        if not layout.frames:
            raise FlowError("attention to the video needs the frames' tokens, and the layout has no frames")
        self._frames = [len(frame) for frame in layout.frames]
        self._video = layout.groups["video"][0]
        prompt = {name: _tokens(layout, name) for name in self._chosen(layout)}
        self._rows = torch.unique(torch.cat([*prompt.values(), torch.zeros(0, dtype=torch.long)]))
        # target -> where its rows stand among `_rows`, on the host and copied to each device once
        self._places = {name: torch.searchsorted(self._rows, rows) for name, rows in prompt.items()}
        self._sent: dict[torch.device, dict[str, Tensor]] = {}
        names = [*prompt, *([GENERATED] if self.generated else [])]
        depth = len(decoder_layers(find_decoder(model)))
        # target -> layer -> what each call gave, [row, frame] and [row, video token]
        self._by_frame: dict[str, list[list[Tensor]]] = {name: [[] for _ in range(depth)] for name in names}
        self._by_token: dict[str, list[list[Tensor]]] = {name: [[] for _ in range(depth)] for name in names}

    def _chosen(self, layout: Layout) -> list[str]:
        if self._targets is None:
            found = [name for name in TARGETS if name in layout.groups and layout.size(name)]
        else:
            found = [name for name in self._targets if name != GENERATED]
        empty = next((name for name in found if not layout.size(name)), None)
        if empty is not None:
            raise FlowError(f"group {empty!r} has no tokens in this prompt: its attention can't be read")
        return found

    def attends(self, layer: int, weights: Weights, first: int) -> None:
        """Reduces the rows' weights to frames and to video tokens.

        Args:
            layer: from 1.
            weights: of the layer's attention, asked for by rows.
            first: the place of the first row in the sequence; 0 in the prompt.
        """
        if first:
            if self.generated:
                video = self._to_video(weights, torch.arange(weights.num_rows), first)
                self._by_frame[GENERATED][layer - 1].append(self._to_frames(video))
                self._by_token[GENERATED][layer - 1].append(video)
        elif len(self._rows):
            video = self._to_video(weights, self._rows, first)
            frames = self._to_frames(video)
            for name, places in self._places_on(video.device).items():
                self._by_frame[name][layer - 1].append(frames[places])
                self._by_token[name][layer - 1].append(video[places].mean(0, keepdim=True))

    def _to_video(self, weights: Weights, rows: Tensor, first: int) -> Tensor:
        """The weights of rows on the video's tokens, [row, video token]."""
        earlier = first + weights.num_rows - weights.num_keys  # tokens that a window's cache has let go of
        start, stop = (max(0, place - earlier) for place in (self._video.start, self._video.stop))
        video = pooled(weights, rows, self._heads)[:, start:stop]
        return nn.functional.pad(video, (len(self._video) - video.shape[1], 0))

    def _to_frames(self, video: Tensor) -> Tensor:
        """Sums over each frame's tokens of [row, video token]: [row, frame]."""
        if len(set(self._frames)) == 1:  # the paper's case, in one step: a GPU waits for the many small ones
            frames: Tensor = video.unflatten(-1, (len(self._frames), -1))
            return frames.sum(-1)
        return torch.stack([part.sum(-1) for part in torch.split(video, self._frames, -1)], -1)

    def _places_on(self, device: torch.device) -> dict[str, Tensor]:
        if device not in self._sent:
            self._sent[device] = {name: send(places, device) for name, places in self._places.items()}
        return self._sent[device]

    def tensors(self) -> dict[str, Tensor]:
        """`attention.<target>` [layer, query row, frame] and `attention.<target>.tokens` [layer, video token]."""
        found = {}
        for name, layers in self._by_frame.items():
            if not layers[0]:  # the answer was over with its first token
                layers = [[torch.zeros(0, len(self._frames))] for _ in layers]
            else:
                tokens = [torch.cat(each).mean(0).cpu() for each in self._by_token[name]]
                found[f"attention.{name}.tokens"] = torch.stack(tokens).half()
            found[f"attention.{name}"] = torch.stack([torch.cat(each).cpu() for each in layers])
        return found


def attention_to_video(
    model: Any,
    inputs: Mapping[str, Any],
    layout: Layout,
    targets: Sequence[str] | None = None,
    heads: Pooling = "mean",
    new_tokens: int = NEW_TOKENS,
) -> dict[str, Tensor]:
    """How much of each target row's attention goes to each frame, and to each video token (paper, Figs 6 and E).

    Read in one prefill while SDPA runs: the weights of the chosen rows are computed again from the queries and keys of
    the very call, and reduced at once. They equal eager attention's to 1e-5 in fp32.

    Args:
        model: a VideoLLM of transformers, or what `lmms_flow.load` gave; its attention is `sdpa` or `eager`.
        inputs: the model's, for one prompt without padding.
        layout: of the prompt, with its frames.
        targets: groups whose rows are read, and "generated" for those of the answer's tokens, decoded greedily;
            question, options and last by default, as far as the prompt has them.
        heads: "mean" or "max" of the heads, taken edge by edge before anything is added up.
        new_tokens: how many generated rows are read at the most.

    Returns:
        `attention.<target>`: the sum over each frame's tokens, fp32 [layer, query row, frame], and
        `attention.<target>.tokens`: the mean over the target's rows, fp16 [layer, video token]. Layers from 1. With
        "generated" also `generated.tokens`, int32 [row]: the token whose row it is.

    Raises:
        FlowError: the inputs are not the layout's prompt, or a target has no rows in it.
        UnsupportedModelError: the weights of this model's attention can't be read.
    """
    return read_out(model, inputs, layout, VideoAttention(targets, heads, new_tokens))


def _tokens(layout: Layout, name: str) -> Tensor:
    return torch.tensor([token for span in layout.span(name) for token in span], dtype=torch.long)
