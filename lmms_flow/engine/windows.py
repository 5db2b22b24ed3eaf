"""How far back a model's own layers read: what a window hides, no flow can cut."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from ..errors import FlowError, UnsupportedModelError
from ..flow import ResolvedFlow
from .decoder import decoder_layers
from .masks import keep_mask

FULL = ("full_attention", "attention")


def has_windows(decoder: nn.Module) -> bool:
    """Whether some layer reads no further back than a window, by its place in the prompt: rows may not move there."""
    config = getattr(decoder, "config", None)
    types = getattr(config, "layer_types", None)
    if types is not None:
        return any(kind not in FULL for kind in types)
    return getattr(config, "sliding_window", None) is not None


def layer_windows(decoder: nn.Module) -> tuple[int | None, ...]:
    """How many tokens each layer reads back, itself included; empty where all layers read everything.

    Raises UnsupportedModelError for a kind of layer that is not known.
    """
    if not has_windows(decoder):
        return ()
    config: Any = decoder.config
    kinds = getattr(config, "layer_types", None) or ["sliding_attention"] * len(decoder_layers(decoder))
    window = getattr(config, "sliding_window", None)
    unknown = next((kind for kind in kinds if kind not in (*FULL, "sliding_attention")), None)
    if unknown is not None:
        raise UnsupportedModelError(
            f"{type(decoder).__name__} has layers of the kind {unknown!r}, which flows don't know"
        )
    return tuple(None if kind in FULL else window for kind in kinds)


def check_windows(resolved: Sequence[ResolvedFlow], windows: Sequence[int | None]) -> None:
    """Raises FlowError for a flow whose cuts all lie where the model's windows hide the keys anyway."""
    if not any(windows):
        return
    for flow in resolved:
        if flow.bound.flow.kind == "sham" or flow.cuts_generated:
            continue
        kept, total = kept_edges_in(flow, windows)
        if kept == total:
            raise FlowError(
                f"flow {flow.bound.flow.text!r} cuts nothing in this prompt: the model's attention window of "
                f"{min(filter(None, windows))} tokens hides these keys already"
            )


def kept_edges_in(flow: ResolvedFlow, windows: Sequence[int | None]) -> tuple[int, int]:
    """(kept, total) attention edges of one head, summed over layers, of those that the model itself has."""
    if not any(windows):
        return flow.kept_edges()
    by_layer = kept_by_layer_in(flow, windows)
    length = flow.layout.num_tokens
    return sum(by_layer), sum(edges_in_window(length, window) for window in windows)


def kept_by_layer_in(flow: ResolvedFlow, windows: Sequence[int | None]) -> tuple[int, ...]:
    """The attention edges kept in each layer, of one head, within the model's windows."""
    plain = flow.kept_by_layer()
    found: dict[Any, int] = {}
    kept = []
    for layer, window in enumerate(windows or (None,) * len(plain), 1):
        if window is None or window >= flow.layout.num_tokens:
            kept.append(plain[layer - 1])
            continue
        key = (layer if flow.draws else flow.bound.cuts[layer - 1], window)
        if key not in found:
            found[key] = int(keep_mask(flow, layer).triu(1 - window).sum())
        kept.append(found[key])
    return tuple(kept)


def edges_in_window(length: int, window: int | None) -> int:
    """The edges of one layer of one head that a causal window leaves."""
    if window is None or window >= length:
        return length * (length + 1) // 2
    return window * (window + 1) // 2 + (length - window) * window
