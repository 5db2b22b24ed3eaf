"""Logit lens over video tokens: which words a layer's states are nearest to (paper, section 3.3, Figs 4, 5, F)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from ..engine.decoder import decoder_layers, find_decoder, module_of
from ..engine.head import Head
from ..errors import FlowError, UnsupportedModelError, nearest
from ..flow import Layout
from .reading import ReadOut, read_out

Matrix: TypeAlias = Literal["head", "input"]
Numbering: TypeAlias = Literal["output", "paper"]
Norm: TypeAlias = Literal["last", "all", "none"]
CHOICES = {"matrix": ("head", "input"), "numbering": ("output", "paper"), "norm": ("last", "all", "none")}
CHUNK_BYTES = 64 << 20  # of logits that exist at once
CHUNK_ROWS = 576  # more fill no cache better
BLOCK = 64  # tokens of the vocabulary whose largest logit is looked for first


class LogitLens(ReadOut):
    """The nearest tokens of each video token in each layer; see `logit_lens`."""

    def __init__(
        self,
        top: int = 5,
        *,
        matrix: Matrix = "head",
        numbering: Numbering = "output",
        norm: Norm = "last",
        layers: Sequence[int] | None = None,
    ) -> None:
        for name, value in (("matrix", matrix), ("numbering", numbering), ("norm", norm)):
            if value not in CHOICES[name]:
                near = nearest(str(value), CHOICES[name])
                raise FlowError(f"there is no {name} {value!r}{near} ({name}: {', '.join(CHOICES[name])})")
        if not isinstance(top, int) or top < 1:
            raise FlowError(f"a lens shows at least one token, not {top!r}")
        self._top, self._matrix, self._numbering, self._norm = top, matrix, numbering, norm
        self._layers = layers

    def begin(self, model: nn.Module, layout: Layout) -> None:
        """Finds the matrix, the layers and the video."""
        if not layout.groups["video"]:
            raise FlowError("a lens over video tokens needs a video, and the prompt has none")
        self._video = layout.groups["video"][0]
        self._head = Head.of(model)
        self._embeddings = None if self._matrix == "head" else _input_embeddings(model)
        vocabulary = len(self._head.weight if self._embeddings is None else self._embeddings)
        if self._top > vocabulary:
            raise FlowError(f"a lens can't show {self._top} of {vocabulary} tokens")
        self._rows = max(1, min(CHUNK_ROWS, CHUNK_BYTES // (vocabulary * 4)))
        self._last = len(decoder_layers(find_decoder(model)))
        chosen = range(1, self._last + 1) if self._layers is None else self._layers
        for layer in chosen:
            if not 1 <= layer <= self._last:
                raise FlowError(f"layer {layer} does not exist, the model has layers 1-{self._last}")
        if not chosen:
            raise FlowError("a lens needs at least one layer")
        self._chosen = list(chosen)
        self._found: dict[int, tuple[Tensor, Tensor]] = {}
        self._end: Tensor | None = None

    def enters(self, layer: int, states: Tensor) -> None:
        """The paper's numbering reads the states [token, width] that a layer is given."""
        if self._numbering == "paper":
            self._read(layer, states)

    def leaves(self, layer: int, states: Tensor) -> None:
        """The right one reads the states [token, width] that it gives back."""
        if layer == self._last:
            self._end = states[-1].clone()
        if self._numbering == "output":
            self._read(layer, states)

    def _read(self, layer: int, states: Tensor) -> None:
        if layer not in self._chosen or layer in self._found:
            return
        if layer == self._last and (self._norm == "last" or self._numbering == "paper"):
            return  # read at the end, as the model hands it out
        video = states[self._video.start : self._video.stop]
        self._found[layer] = self._nearest(video, self._norm == "all")

    def ends(self, states: Tensor, logits: Tensor | None) -> None:
        """The last layer, as the decoder hands its states [token, width] out."""
        assert logits is not None
        assert self._end is not None
        if self._matrix == "head" or self._norm == "all":
            self._head.check(self._end, states[-1], logits)
        if self._last in self._chosen and self._last not in self._found:
            self._found[self._last] = self._nearest(states[self._video.start : self._video.stop], False)

    def _nearest(self, states: Tensor, norm: bool) -> tuple[Tensor, Tensor]:
        """The top tokens and their probabilities, [video token, k] each, some video tokens at a time."""
        parts = list(self._parts(states, norm))
        return torch.cat([tokens for tokens, _ in parts]), torch.cat([values for _, values in parts])

    def _parts(self, states: Tensor, norm: bool) -> Iterator[tuple[Tensor, Tensor]]:
        for part in torch.chunk(states, -(-len(states) // self._rows)):
            rows = self._head.normed(part) if norm else part
            if self._embeddings is None:
                logits = self._head.own_logits(rows)
            else:
                logits = rows.to(self._embeddings.device) @ self._embeddings.T
            tokens = largest(logits, self._top)
            # On a CPU torch's softmax takes an eighth of the time of its logsumexp.
            yield tokens.int(), logits.softmax(-1, dtype=torch.float32).gather(-1, tokens)

    def tensors(self) -> dict[str, Tensor]:
        """`logit_lens.tokens` and `logit_lens.probabilities`, both [layer, video token, k]."""
        found = [self._found[layer] for layer in self._chosen]
        return {
            "logit_lens.tokens": torch.stack([tokens.cpu() for tokens, _ in found]),
            "logit_lens.probabilities": torch.stack([values.cpu() for _, values in found]),
        }


def logit_lens(
    model: Any,
    inputs: Mapping[str, Any],
    layout: Layout,
    top: int = 5,
    *,
    matrix: Matrix = "head",
    numbering: Numbering = "output",
    norm: Norm = "last",
    layers: Sequence[int] | None = None,
) -> dict[str, Tensor]:
    """The most probable tokens of each video token's state in each layer (paper, section 3.3, Figs 4, 5 and F).

    One prefill; each layer's states are put through the matrix as they come, in chunks, softmax in fp32. Logits of the
    whole vocabulary never exist for all tokens at once.

    Args:
        model: a VideoLLM of transformers, or what `lmms_flow.load` gave.
        inputs: the model's, for one prompt without padding.
        layout: of the prompt.
        top: how many tokens are kept.
        matrix: "head": the model's output embeddings, with what its family does to logits (the paper's text); "input":
            its input embeddings, as they are (the paper's released code).
        numbering: "output": entry l is the output of layer l; "paper": entry l is the input of layer l, one layer
            earlier than it says, and the last entry the model's last states (the released code).
        norm: which layers' states pass the final norm: the "last" alone, as the model hands them out, "all", or "none"
            (in the paper's numbering, the last entry is normed all the same).
        layers: entries that are read, from 1; all by default. What the lens costs grows with them.

    Returns:
        `logit_lens.tokens` int32 and `logit_lens.probabilities` fp32, [layer, video token, k], most probable first.

    Raises:
        FlowError: the inputs are not the layout's prompt, or an argument is none of these.
        UnsupportedModelError: the model's head does something that is not known.
    """
    lens = LogitLens(top, matrix=matrix, numbering=numbering, norm=norm, layers=layers)
    return read_out(model, inputs, layout, lens)


def layers_within(model: Any, layout: Layout, share: float = 0.2) -> list[int]:
    """Layers for a lens that costs at most this share of a prefill, as evenly spread as can be, the last one with them.

    Counted in products, by the numbers of weights: a lens of all layers takes half a prefill of a 7B with a vocabulary
    of 32,000, and more than two with one of 152,000.
    """
    module = module_of(model)
    decoder = find_decoder(module)
    depth = len(decoder_layers(decoder))
    a_layer = layout.size("video") * Head.of(module).weight.numel()
    prefill = layout.num_tokens * sum(
        each.numel() for layer in decoder_layers(decoder) for each in layer.parameters()
    )
    count = max(1, min(depth, int(share * prefill / a_layer))) if a_layer else depth
    return [-(-depth * place // count) for place in range(1, count + 1)]


def largest(logits: Tensor, top: int) -> Tensor:
    """The places of the largest logits of [row, token], [row, k], the largest first.

    They lie in the k blocks of tokens whose largest logits are the largest. torch.topk over the whole vocabulary takes
    longer than a softmax on a CPU, and on a GPU as long as the products that gave the logits.
    """
    blocks = logits.shape[-1] // BLOCK
    if blocks <= top:
        return logits.topk(top).indices
    even = logits[:, : blocks * BLOCK].unflatten(-1, (blocks, BLOCK))  # [row, block, token]
    chosen = even.amax(-1).topk(top).indices
    found = even.gather(1, chosen[:, :, None].expand(-1, -1, BLOCK)).flatten(1)
    places = (chosen[:, :, None] * BLOCK + torch.arange(BLOCK, device=logits.device)).flatten(1)
    rest = torch.arange(blocks * BLOCK, logits.shape[-1], device=logits.device)
    found = torch.cat([found, logits[:, blocks * BLOCK :]], -1)
    places = torch.cat([places, rest.expand(len(logits), -1)], -1)
    return places.gather(-1, found.topk(top).indices)


def _input_embeddings(model: nn.Module) -> Tensor:
    embeddings: Any = getattr(model, "get_input_embeddings", lambda: None)()
    weight = getattr(embeddings, "weight", None)
    if not isinstance(weight, Tensor) or weight.ndim != 2:
        raise UnsupportedModelError(f"{type(model).__name__} has no input embeddings [token, width]")
    return weight.detach()
