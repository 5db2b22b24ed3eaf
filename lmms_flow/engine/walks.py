"""Forks of one prompt's run: each knockout in each window of layers, in as few walks through the model as fit.

A knockout changes only the rows from its first target row on, and only from its first layer on. So the baseline runs
once, and every (knockout, window) is a fork: the rows that it changes, joining at its first layer (`fork`). A sweep
cuts in them, a restoration gives back.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from ..errors import FlowError, nearest
from ..flow import Flow, Knockout, Layout, ResolvedFlow, Rule
from ..flow.own_groups import known
from ..flow.trace_settings import STYLES
from .decoder import decoder_layers
from .fork import CantForkError, Fork, ForkWalk
from .layer_call import going_on_from, keeping, layers_with_visual_features
from .windows import check_windows, layer_windows

Style: TypeAlias = Literal["center", "inverse", "from_layer", "to_layer"]
DEFAULT_MEMORY = 2 << 30  # bytes


@dataclass(frozen=True)
class Forks:
    """Each knockout in each window: the windows of the first, then those of the second. `layers` are their centres."""

    knockouts: tuple[Knockout, ...]
    layers: tuple[int, ...]
    forks: tuple[Fork, ...]

    def read(self, logits: Sequence[Tensor], answer: int, candidates: Sequence[int]) -> ForkReadOut:
        """What is read from the logits of walks, each [1 + fork, vocabulary] with the baseline first."""
        after = torch.cat([walk[1:] for walk in logits]).softmax(-1)
        wanted = torch.tensor(candidates, dtype=torch.long, device=after.device)
        shape = (len(self.knockouts), len(self.layers))
        return ForkReadOut(
            self.knockouts,
            self.layers,
            answer,
            after[:, answer].reshape(shape).cpu(),
            after.argmax(-1).reshape(shape).cpu(),
            after[:, wanted].reshape(*shape, len(candidates)).cpu(),
        )


@dataclass(frozen=True, repr=False)
class ForkReadOut:
    """What was read at the last position of each fork. Layers count from 1: `[k, l - 1]` is the window of layer l.

    `answer` is a token. `probabilities` [knockout, layer]: of this token, fp32. `predictions` [knockout, layer]: the
    most probable token. `candidates` [knockout, layer, candidate]: of the tokens that were asked for.
    """

    knockouts: tuple[Knockout, ...]
    layers: tuple[int, ...]
    answer: int
    probabilities: Tensor
    predictions: Tensor
    candidates: Tensor

    def __repr__(self) -> str:
        cut = ", ".join(map(str, self.knockouts))
        return f"{type(self).__name__}({cut}; {len(self.layers)} layers, answer {self.answer})"


def forks_of(
    decoder: nn.Module,
    layout: Layout,
    knockouts: Sequence[Knockout | str],
    *,
    window: int,
    style: str,
    layers: Sequence[int] | None,
    how: str,
    who: str,
) -> Forks:
    """Each knockout in the window of each layer.

    Args:
        decoder: of the model.
        layout: of the prompt.
        knockouts: rules without layers.
        window: how many layers one has.
        style: which layers belong to a layer (`window_layers`).
        layers: limits the windows' layers, from 1; all by default.
        how: what a fork does with its edges.
        who: needs them, as errors name it.

    Raises:
        FlowError: a knockout does not fit the prompt or the model's own windows, a layer or style does not exist, or
            there is nothing to run.
    """
    depth = len(decoder_layers(decoder))
    centres = check_layers(depth, window, style, layers)
    cuts = tuple(as_knockout(each, layout) for each in knockouts)
    resolved = [resolve_knockout(cut, layout, depth) for cut in cuts]
    check_windows(resolved, layer_windows(decoder))
    where = [frozenset(window_layers(centre, depth, window, style)) for centre in centres]
    forks = tuple(Fork(first_row(cut), cut, each, how) for cut in resolved for each in where)
    if not forks:
        raise FlowError(f"{who} needs at least one knockout and one layer")
    return Forks(cuts, centres, forks)


def window_layers(layer: int, num_layers: int, window: int, style: str) -> tuple[int, ...]:
    """The layers (from 1) in which a knockout centred on `layer` cuts.

    Args:
        layer: the centre, from 1.
        num_layers: of the model.
        window: how many layers are cut around it; fewer at the ends, and an even window reaches one further down, as in
            the paper's code.
        style: `center`: the window; `inverse`: all other layers; `from_layer`: the centre and all later ones;
            `to_layer`: all up to it.
    """
    first, last = max(1, layer - window // 2), min(num_layers, layer + (window + 1) // 2 - 1)
    everything = range(1, num_layers + 1)
    if style == "center":
        return tuple(range(first, last + 1))
    if style == "inverse":
        return tuple(each for each in everything if not first <= each <= last)
    return tuple(everything[layer - 1 :] if style == "from_layer" else everything[:layer])


def walk_forks(
    model: nn.Module,
    decoder: nn.Module,
    inputs: Mapping[str, Any],
    chunk: list[Fork],
    other: DynamicCache | None = None,
) -> Tensor:
    """Logits of the baseline and of each fork in one walk, [1 + fork, vocabulary]; out of memory: in two halves.

    Args:
        model: the whole model.
        decoder: its decoder.
        inputs: of the baseline.
        chunk: the forks.
        other: the cache of the run whose keys and values restored forks read.

    Raises:
        CantForkError: rows can't be run apart from the prompt's.
    """
    if layers_with_visual_features(model, decoder) >= len(decoder_layers(decoder)):
        raise CantForkError("visual features are added behind its last layer, at the places of the prompt")
    try:
        with ForkWalk(decoder, chunk, other) as walk:
            asked = going_on_from(model, walk.cache) | keeping(model, len(chunk) + 1)
            out: Any = model(**inputs, **asked, use_cache=True)
        logits: Tensor = out.logits[0, -len(chunk) - 1 :]
        return logits.float()
    except torch.OutOfMemoryError:
        if len(chunk) == 1:
            raise
    # Out of the handler: its exception holds the tensors that did not fit.
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    half = len(chunk) // 2
    warnings.warn(
        "a sweep ran out of memory: its forks are run in smaller chunks (max_memory sets them)", stacklevel=3
    )
    first, second = (walk_forks(model, decoder, inputs, part, other) for part in (chunk[:half], chunk[half:]))
    return torch.cat([first, second[1:]])


def check_layers(num_layers: int, window: int, style: str, layers: Sequence[int] | None) -> tuple[int, ...]:
    """The layers (from 1) around which windows lie, all by default. Raises FlowError where something does not fit."""
    if style not in STYLES:
        raise FlowError(f"there is no style {style!r}{nearest(style, STYLES)} (styles: {', '.join(STYLES)})")
    if window < 1:
        raise FlowError(f"a window has at least one layer, not {window}")
    centres = tuple(range(1, num_layers + 1)) if layers is None else tuple(layers)
    for layer in centres:
        if not 1 <= layer <= num_layers:
            raise FlowError(f"layer {layer} does not exist, the model has layers 1-{num_layers}")
    return centres


def check_candidates(candidates: Sequence[int], model: nn.Module) -> None:
    """Raises FlowError for a token id that the vocabulary has not."""
    vocabulary = len(model.get_output_embeddings().weight)  # type: ignore[operator]
    for token in candidates:
        if not 0 <= token < vocabulary:
            raise FlowError(f"there is no token {token}: the model's vocabulary has {vocabulary}")


def as_knockout(each: Knockout | str, layout: Layout | None = None) -> Knockout:
    """A knockout, or its text: a rule without layers, such as "video:question"; a layout's own groups may be named."""
    if isinstance(each, Knockout):
        return each
    source, colon, target = each.partition(":")
    with known(layout.own if layout is not None else ()):
        return Knockout(source, target if colon else None)


def resolve_knockout(cut: Knockout, layout: Layout, num_layers: int) -> ResolvedFlow:
    """The knockout in all layers: checked against the prompt once, used in every window."""
    return Flow("cuts", str(cut), str(cut), rules=(Rule(cut),)).bind(num_layers).resolve(layout)


def first_row(resolved: ResolvedFlow) -> int:
    """The first row that a knockout changes. Raises FlowError where it changes none of the prompt's."""
    rectangles = next(iter(resolved.rectangles.values()))
    if not rectangles:  # a rule of generated tokens alone
        raise FlowError(
            f"knockout {resolved.bound.flow.text!r} cuts nothing in this prompt: no answer has begun in it (see "
            "Layout.with_answer)"
        )
    return min(queries[0].start for _, queries in rectangles)


def bytes_a_row(model: nn.Module) -> int:
    """What the states of one row take."""
    weight = model.get_output_embeddings().weight  # type: ignore[operator]
    return int(weight.shape[-1] * weight.element_size())


def chunks(forks: Sequence[Fork], model: nn.Module, max_memory: int) -> list[list[Fork]]:
    """The forks in as few walks as `max_memory` allows; one fork a walk at the least."""
    chunks: list[list[Fork]] = []
    row, held = bytes_a_row(model), 0
    for fork in forks:
        size = fork.num_rows * row
        if not chunks or held + size > max_memory:
            chunks.append([])
            held = 0
        chunks[-1].append(fork)
        held += size
    return chunks
