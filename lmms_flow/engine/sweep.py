"""All knockouts in all windows of layers, in one walk through the model.

A knockout changes only the rows from its first target row on, and only from its first layer on. So the baseline runs
once, and every (knockout, window) is a fork (`walks`): the rows that it changes, joining at its first layer. A fork
reads the baseline's keys and values below its first row and its own above. Exact: each number is that of one forward a
knockout.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from ..errors import FlowError
from ..flow import Flow, Knockout, Layout, ResolvedFlow
from ..notebook import axes_of, picture
from ..plots import WINDOWS, draw_line, draw_zero, style_of
from .applied import applied
from .both_ways import reads_both_ways
from .decoder import module_of
from .dense import HOW, check_how
from .fork import CantForkError, Fork
from .hooks import already_under, has_foreign_hooks, open_blocks
from .layer_call import keeping
from .mechanisms import check_mechanisms, eagerly
from .one_prompt import check_prompt, only_the_prompt
from .proof import prove
from .walks import (
    DEFAULT_MEMORY,
    ForkReadOut,
    Style,
    check_candidates,
    chunks,
    forks_of,
    walk_forks,
)


@dataclass(frozen=True, repr=False)
class SweepResult(ForkReadOut):
    """What a sweep read at the last position, with the edges cut.

    `answer` is the baseline's; `baseline` its probability without a cut, and `baseline_candidates` [candidate] those of
    the tokens that were asked for.
    """

    baseline: float
    baseline_candidates: Tensor

    @property
    def relative_change(self) -> Tensor:
        """(p_knockout - p_base) / p_base in per cent, [knockout, layer] (paper, section 2.2)."""
        return (self.probabilities - self.baseline) / self.baseline * 100

    def plot(self, ax: Any = None) -> Any:
        """Draws the curves; returns the axes, in a figure of their own where none are given."""
        axes = axes_of(ax)
        for place, (knockout, curve) in enumerate(zip(self.knockouts, self.relative_change, strict=True)):
            draw_line(axes, self.layers, curve.tolist(), style_of(str(knockout), place), str(knockout))
        draw_zero(axes, WINDOWS, "change of the answer's probability (%)")
        axes.legend(fontsize="small")
        return axes

    def __repr__(self) -> str:
        cut = ", ".join(map(str, self.knockouts))
        return f"SweepResult({cut}; {len(self.layers)} layers, answer {self.answer}, baseline {self.baseline:.3f})"

    def _repr_html_(self) -> str:
        return picture(self.plot().figure)


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
    check_prompt(inputs, layout, "a sweep")
    check_how(how)
    check_candidates(candidates, model)
    cut = forks_of(
        decoder, layout, knockouts, window=window, style=style, layers=layers, how=how, who="a sweep"
    )
    prove(model)
    walks = chunks(cut.forks, model, max_memory)
    bar = tqdm(walks, desc="sweep", unit="walk", disable=not progress or len(walks) < 2)
    with eagerly():
        logits = [_read(model, decoder, inputs, chunk) for chunk in bar]
    before = logits[-1][0].softmax(-1)
    read = cut.read(logits, int(before.argmax()), candidates)
    return SweepResult(
        **vars(read), baseline=float(before[read.answer]), baseline_candidates=before[list(candidates)].cpu()
    )


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
