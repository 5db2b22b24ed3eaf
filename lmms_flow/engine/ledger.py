"""The ledger: FLOPs and bytes of a prefill under a flow, next to the same under full attention. In closed form.

A layer costs `2 * rows * weights` for its linear maps and `4 * width * pairs` for its attention; `width` is that of all
query heads together. `pairs` are the (query, key) pairs of one head that the kernels compute: masked and causal kernels
compute all of them and throw the cut ones away. `edges` are those that the flow keeps. Vision tower and head are apart.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn

from ..errors import FlowError, nearest
from ..flow import BoundFlow, Flow, Layout
from ..flow.shapes import DecoderShape
from .both_ways import reads_both_ways
from .course import Course, Setting
from .decoder import decoder_layers, find_decoder, module_of
from .measured import Measured
from .model_state import adapters_of, modules_now
from .plan import RowPlan
from .workload import Workload

AGREES = 0.005  # a measured size this close to the one by weights is that one


@dataclass(frozen=True)
class LayerCost:
    """One decoder layer. Rows and cached keys are prompt tokens; edges and pairs are of one head."""

    rows: int  # that enter
    edges: int  # kept among them
    pairs: int  # that the kernels compute
    cached: int  # whose keys and values are left after the prefill
    linear: int  # FLOPs
    attention: int  # FLOPs of the kernels that run
    attention_by_edges: int  # FLOPs if each kept edge were computed and nothing else


@dataclass(frozen=True)
class Cost:
    """The decoder and its head in one prefill of one prompt."""

    layers: tuple[LayerCost, ...]
    head: int  # FLOPs
    mask_bytes: int  # held for the flow at the end of the prefill
    cache_bytes: int  # keys and values left for decoding

    @property
    def linear(self) -> int:
        """FLOPs of the layers' linear maps."""
        return sum(layer.linear for layer in self.layers)

    @property
    def attention(self) -> int:
        """FLOPs of the attention kernels that run, counted by their shapes."""
        return sum(layer.attention for layer in self.layers)

    @property
    def attention_by_edges(self) -> int:
        """FLOPs of the kept edges alone: what attention would cost if no kernel computed a pair that is cut."""
        return sum(layer.attention_by_edges for layer in self.layers)

    @property
    def flops(self) -> int:
        """Of the decoder and its head, by the kernels that run."""
        return self.linear + self.attention + self.head


@dataclass(frozen=True)
class Ledger:
    """A prefill under a flow (`flow`) and the same prompt under full attention, as the stock model runs it (`full`)."""

    flow: Cost
    full: Cost
    vision: int = 0  # FLOPs of the vision tower and its projector, the same in both

    @property
    def flops(self) -> int:
        """Of the whole prefill under the flow: vision, decoder and head."""
        return self.vision + self.flow.flops

    @property
    def flops_full(self) -> int:
        """Of the whole prefill under full attention."""
        return self.vision + self.full.flops

    @property
    def bound(self) -> float:
        """How many times fewer FLOPs the decoder needs than the stock one, if cut edges cost nothing at all."""
        return self.full.flops / (self.flow.linear + self.flow.attention_by_edges + self.flow.head)


_shapes: WeakKeyDictionary[nn.Module, tuple[Any, DecoderShape]] = WeakKeyDictionary()


def ledger(
    model: Any, flow: Flow | str, layout: Layout | int, engine: str = "sparse", *, vision: int = 0
) -> Ledger:
    """Counts one prompt's prefill on a loaded model of transformers, the head asked for the last position alone.

    A prompt is counted on its own: padding in a batch and work that arms share are not in it. The first call reads the
    model's sizes, a new layout takes milliseconds, and one that was seen about one.

    Args:
        model: a decoder or VideoLLM of transformers, or what `lmms_flow.load` gave.
        flow: a flow, or its text.
        layout: of the prompt; under `none`, which needs no groups, a number of tokens will do.
        engine: "sparse" or "dense".
        vision: the FLOPs of the vision tower, from `counting_vision`.

    Raises:
        FlowError: the flow does not fit, or a layer's FLOPs can't be told.
    """
    model = module_of(model)
    if reads_both_ways(model) and engine == "sparse":  # which runs on the reference there
        engine = "dense"
    return ledger_of(_shape_now(model), flow, layout, engine, vision=vision, setting=Setting.of(model))


def ledger_of(
    shape: DecoderShape,
    flow: Flow | str,
    layout: Layout | int,
    engine: str = "sparse",
    *,
    vision: int = 0,
    setting: Setting | None = None,
) -> Ledger:
    """The same without a model, from its sizes (`lmms_flow.flow.shapes` has those of the known checkpoints)."""
    from .intervene import ENGINES

    if engine not in ENGINES:
        raise FlowError(
            f"there is no engine {engine!r}{nearest(engine, ENGINES)} (engines: {', '.join(ENGINES)})"
        )
    flow = Flow.load(flow) if isinstance(flow, str) else flow
    if isinstance(layout, int):
        layout = Layout(layout, {"system": range(layout - 1), "last": range(layout - 1, layout)})
    setting = setting or Setting()
    bound, stock = flow.bind(shape.num_layers), Flow.load("none").bind(shape.num_layers)
    run, full = _cost(shape, setting, bound, layout, engine), _cost(shape, setting, stock, layout, "dense")
    return Ledger(run, full, vision)


def _shape_now(model: nn.Module) -> DecoderShape:
    """The model's sizes, read once for as long as its modules and adapters are as they were."""
    state = modules_now(find_decoder(model))
    known = _shapes.get(model)
    if known is None or known[0] != state:
        known = state, decoder_shape(model)
        _shapes[model] = known
    return known[1]


def decoder_shape(model: nn.Module) -> DecoderShape:
    """A loaded model's decoder: its linear maps as their sizes say, if a measurement agrees, or else as measured."""
    by_size = _by_size(model)
    if any(p.is_meta for p in model.parameters()):  # nothing can be measured without weights
        if not _is_plain(model):
            raise FlowError(
                f"the FLOPs of {type(model).__name__} are not given: its experts or adapters have to be measured, and "
                "this model has no weights to measure them with"
            )
        return by_size
    measured = Measured.of(model)
    width = measured.a_pair[0] / 4
    if any(abs(pair / 4 - width) > 0.01 * max(width, 1) for pair in measured.a_pair):
        raise FlowError(
            f"the FLOPs of {type(model).__name__} are not given: its layers have attention of several sizes"
        )
    pairs = [(row / 2, weights) for row, weights in zip(measured.a_row, by_size.weights, strict=True)]
    weights = tuple(w if abs(row / max(w, 1) - 1) < AGREES else round(row) for row, w in pairs)
    agrees = abs(width / by_size.attention_width - 1) < AGREES
    return replace(
        by_size, weights=weights, attention_width=by_size.attention_width if agrees else round(width)
    )


def _by_size(model: nn.Module) -> DecoderShape:
    """Weights summed over the linear maps that are there."""
    decoder = find_decoder(model)
    layers = decoder_layers(decoder)
    any_decoder: Any = decoder
    config = any_decoder.config
    heads = config.num_attention_heads
    head_width = getattr(layers[0].self_attn, "head_dim", None) or config.hidden_size // heads
    kv_heads = getattr(config, "num_key_value_heads", None) or heads
    head = model.get_output_embeddings()  # type: ignore[operator]
    return DecoderShape(
        weights=tuple(map(_linear_weights, layers)),
        attention_width=heads * head_width,
        cache_width=kv_heads * head_width,
        head_weights=_linear_weights(head),
        bytes_each=any_decoder.dtype.itemsize,
    )


def _is_plain(model: nn.Module) -> bool:
    """Whether each row goes through each linear map of the layers once, and through nothing else with weights."""
    parts = [
        part
        for layer in decoder_layers(find_decoder(model))
        for name, part in layer.named_modules()
        if "expert" in name or adapters_of(part)
    ]
    return not parts


def _linear_weights(module: nn.Module) -> int:
    """By the maps' sizes and not their storage, which quantisation packs."""
    return sum(m.in_features * m.out_features for m in module.modules() if isinstance(m, nn.Linear))


@lru_cache(maxsize=256)  # benchmarks repeat prompt lengths, and several arms ask for the same full attention
def _cost(shape: DecoderShape, setting: Setting, bound: BoundFlow, layout: Layout, engine: str) -> Cost:
    resolved = bound.resolve(layout)
    course = Course((resolved,), setting, engine == "sparse")
    run = Workload(resolved, RowPlan(resolved, setting.undropped), course)
    layers = tuple(
        LayerCost(
            rows,
            edges,
            pairs,
            cached,
            2 * rows * shape.weights[number - 1],
            4 * shape.attention_width * pairs,
            4 * shape.attention_width * edges,
        )
        for number, (rows, edges, pairs, cached) in enumerate(run.layers(), 1)
    )
    head_rows = 1 if setting.keeps_one else layout.num_tokens
    cache_bytes = 2 * shape.cache_width * shape.bytes_each * sum(layer.cached for layer in layers)
    return Cost(layers, 2 * head_rows * shape.head_weights, run.mask_bytes(shape.bytes_each), cache_bytes)
