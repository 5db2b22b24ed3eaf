"""All knockouts in all windows of layers, in one walk through the model.

A knockout changes only the rows from its first target row on, and only from its first layer on. So the baseline runs
once, and every (knockout, window) is a fork: the rows that it changes, joining at its first layer. A fork reads the
baseline's keys and values below its first row and its own above. Exact: each number is that of one forward a knockout.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn
from tqdm import tqdm
from transformers import DynamicCache

from ..errors import FlowError, nearest
from ..flow import Flow, Knockout, Layout, ResolvedFlow, Rule
from ..flow.own_groups import known
from ..flow.trace_settings import STYLES
from ..notebook import axes_of, picture
from ..plots import ZERO, literal, style_of
from .applied import applied
from .both_ways import reads_both_ways
from .decoder import decoder_layers, module_of
from .dense import HOW, check_how
from .fork import CantForkError, Fork, ForkWalk
from .hooks import already_under, has_foreign_hooks, open_blocks
from .layer_call import going_on_from, keeping
from .mechanisms import check_mechanisms, eagerly
from .one_prompt import check_prompt, only_the_prompt
from .proof import prove
from .windows import check_windows, layer_windows

Style: TypeAlias = Literal["center", "inverse", "from_layer", "to_layer"]
DEFAULT_MEMORY = 2 << 30


@dataclass(frozen=True, repr=False)
class SweepResult:
    """What a sweep read at the last position. Layers count from 1: entry `[k, l - 1]` is the window of layer l.

    `probabilities` [knockout, layer]: of the baseline's answer token, fp32. `predictions` [knockout, layer]: the most
    probable token. `candidates` [knockout, layer, candidate]: of the tokens that were asked for.
    `baseline`, `answer` and `baseline_candidates` are the same without a cut.
    """

    knockouts: tuple[Knockout, ...]
    layers: tuple[int, ...]
    answer: int
    baseline: float
    baseline_candidates: Tensor
    probabilities: Tensor
    predictions: Tensor
    candidates: Tensor

    @property
    def relative_change(self) -> Tensor:
        """(p_knockout - p_base) / p_base in per cent, [knockout, layer] (paper, section 2.2)."""
        return (self.probabilities - self.baseline) / self.baseline * 100

    def plot(self, ax: Any = None) -> Any:
        """Draws the curves; returns the axes, in a figure of their own where none are given."""
        axes = axes_of(ax)
        for place, (knockout, curve) in enumerate(zip(self.knockouts, self.relative_change, strict=True)):
            style = style_of(str(knockout), place)
            axes.plot(
                self.layers,
                curve.tolist(),
                color=style.colour,
                linestyle=style.dash,
                marker=style.marker,
                ms=4,
                label=literal(str(knockout)),
            )
        axes.axhline(0, color=ZERO, lw=0.8)
        axes.set_xlabel("layer in the middle of the window")
        axes.set_ylabel("change of the answer's probability (%)")
        axes.legend(fontsize="small")
        return axes

    def __repr__(self) -> str:
        cut = ", ".join(map(str, self.knockouts))
        return f"SweepResult({cut}; {len(self.layers)} layers, answer {self.answer}, baseline {self.baseline:.3f})"

    def _repr_html_(self) -> str:
        return picture(self.plot().figure)


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


@torch.no_grad()
def sweep(
    model: Any,
    inputs: Mapping[str, Any],
    layout: Layout,
    knockouts: Sequence[Knockout | str],
    *,
    window: int = 9,
    style: Style = "center",
    layers: Sequence[int] | None = None,
    candidates: Sequence[int] = (),
    how: str = HOW[0],
    max_memory: int = DEFAULT_MEMORY,
    progress: bool = False,
) -> SweepResult:
    """Cuts each knockout in the window of each layer and reads the last position (paper, sections 2.2 and 3).

    Where rows can't be run apart (somebody else's hooks on the model, layers that are told of each token what nobody
    knows here), each knockout takes a forward of its own.

    Args:
        model: a decoder or VideoLLM of transformers, or what `lmms_flow.load` gave.
        inputs: the model's, for one prompt without padding; `input_ids` [1, token].
        layout: of the prompt.
        knockouts: rules without layers, such as "video:question".
        window: how many layers are cut at once.
        style: which layers are cut for a layer: a window around it, all but that window, from it on, or up to it.
        layers: limits the windows' layers, from 1; all by default.
        candidates: token ids whose probabilities are kept, such as the answer letters.
        how: where a cut edge loses its weight, as for `intervene`.
        max_memory: bytes for the forks' states; more forks than fit take more walks.
        progress: whether a bar is shown.

    Returns:
        Probabilities [knockout, layer], beside those of full attention.

    Raises:
        FlowError: a knockout or an input does not fit.
        UnsupportedModelError: a cut would not be applied.
    """
    model = module_of(model)
    decoder = check_mechanisms(model)
    if open_blocks(decoder):
        raise FlowError(
            f"{already_under(decoder)}: a sweep can't be run inside a block of intervene: it compares with full "
            "attention"
        )
    inputs = only_the_prompt(inputs, "a sweep")
    centres = check_layers(len(decoder_layers(decoder)), window, style, layers)
    check_prompt(inputs, layout, "a sweep")
    check_how(how)
    check_candidates(candidates, model)
    cuts = [as_knockout(each, layout) for each in knockouts]
    forks = _forks(decoder, cuts, layout, [(centre, window, style) for centre in centres], how)
    prove(model)
    walks = chunks(forks, bytes_a_row(model), max_memory)
    bar = tqdm(walks, desc="sweep", unit="walk", disable=not progress or len(walks) < 2)
    with eagerly():
        logits = [_read(model, decoder, inputs, chunk) for chunk in bar]
    return _result(cuts, centres, logits, candidates)


def _forks(
    decoder: nn.Module,
    cuts: Sequence[Knockout],
    layout: Layout,
    windows: Sequence[tuple[int, int, str]],
    how: str,
) -> list[Fork]:
    """Each knockout in each window (its centre, width and style), window by window of the first, then of the second.

    Raises FlowError where a knockout does not fit the prompt or the model's own windows, and where there is none.
    """
    num_layers = len(decoder_layers(decoder))
    resolved = [resolve_knockout(cut, layout, num_layers) for cut in cuts]
    check_windows(resolved, layer_windows(decoder))
    layers = [frozenset(window_layers(centre, num_layers, width, style)) for centre, width, style in windows]
    forks = [Fork(first_row(cut), cut, each, how) for cut in resolved for each in layers]
    if not forks:
        raise FlowError("a sweep needs at least one knockout and one layer")
    return forks


def _read(model: nn.Module, decoder: nn.Module, inputs: Mapping[str, Any], chunk: list[Fork]) -> Tensor:
    """Logits of the baseline and of each fork, [1 + fork, vocabulary]: in one walk, or else one forward each."""
    if not has_foreign_hooks(model) and not reads_both_ways(model):
        try:
            return walk_forks(model, decoder, inputs, chunk)
        except CantForkError:
            pass
    rows = [_last_logits(model, inputs)]
    for fork in chunk:
        if not fork.layers:
            rows.append(rows[0])
            continue
        with applied(model, decoder, [_in_layers(fork)], "dense", how=fork.how):
            rows.append(_last_logits(model, inputs))
    return torch.stack(rows)


def _last_logits(model: nn.Module, inputs: Mapping[str, Any]) -> Tensor:
    out: Any = model(**inputs, **keeping(model, 1), use_cache=False)
    logits: Tensor = out.logits[0, -1]
    return logits.float()


def _in_layers(fork: Fork) -> ResolvedFlow:
    """The fork's knockout, cut in its own layers alone."""
    (cut,) = fork.resolved.bound.cuts[0]
    text = "+".join(f"{cut}@{layer}" for layer in sorted(fork.layers))
    return (
        Flow.load(text, layout=fork.resolved.layout)
        .bind(fork.resolved.bound.num_layers)
        .resolve(fork.resolved.layout)
    )


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


def chunks(forks: Sequence[Fork], bytes_a_row: int, max_memory: int) -> list[list[Fork]]:
    """The forks in as few walks as `max_memory` allows; one fork a walk at the least."""
    chunks: list[list[Fork]] = []
    held = 0
    for fork in forks:
        size = fork.num_rows * bytes_a_row
        if not chunks or held + size > max_memory:
            chunks.append([])
            held = 0
        chunks[-1].append(fork)
        held += size
    return chunks


def _result(
    cuts: Sequence[Knockout],
    centres: tuple[int, ...],
    logits: Sequence[Tensor],
    candidates: Sequence[int],
) -> SweepResult:
    """What is read from the logits of the walks, each [1 + fork, vocabulary] with the baseline first."""
    before = logits[-1][0].softmax(-1)
    after = torch.cat([walk[1:] for walk in logits]).softmax(-1)
    answer = int(before.argmax())
    wanted = torch.tensor(candidates, dtype=torch.long, device=after.device)
    shape = (len(cuts), len(centres))
    return SweepResult(
        tuple(cuts),
        centres,
        answer,
        float(before[answer]),
        before[wanted].cpu(),
        after[:, answer].reshape(shape).cpu(),
        after.argmax(-1).reshape(shape).cpu(),
        after[:, wanted].reshape(*shape, len(candidates)).cpu(),
    )
