"""Restoration: which edges, given back in a corrupt run, bring the answer of the clean one back.

Two runs of one prompt that differ in their pixels alone, such as a clip and the same clip played backwards. In the
corrupt run, in a window of layers, the rows of a target read a source's keys and values as the clean run had them: the
edges' contribution is the clean run's (activation patching of edges). Everything else goes on as it is. It is the walk
of a sweep with the corrupt run as its baseline: same forks, and one prefill more, which leaves the clean keys.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm
from transformers import DynamicCache

from ..errors import FlowError, UnsupportedModelError
from ..flow import Knockout, Layout
from .decoder import decoder_layers, module_of
from .fork import RESTORED, CantForkError, Fork
from .hooks import has_foreign_hooks, open_blocks
from .layer_call import going_on_from, keeping
from .mechanisms import check_mechanisms, eagerly
from .one_prompt import check_prompt, only_the_prompt
from .proof import prove
from .sweep import (
    DEFAULT_MEMORY,
    Style,
    as_knockout,
    bytes_a_row,
    check_candidates,
    check_layers,
    chunks,
    first_row,
    resolve_knockout,
    walk_forks,
    window_layers,
)
from .windows import check_windows, layer_windows

WHO = "a restoration"


@dataclass(frozen=True)
class RestorationResult:
    """What was read at the last position. Layers count from 1: entry `[k, l - 1]` is the window of layer l.

    `probabilities` [knockout, layer]: of the clean run's answer token, fp32, with the edges given back. `predictions`
    [knockout, layer]: the most probable token. `candidates` [knockout, layer, candidate]: of the tokens that were asked
    for. `clean` and `corrupt` are the answer's probability in the two runs, `clean_candidates` and
    `corrupt_candidates` [candidate] those of the tokens that were asked for.
    """

    knockouts: tuple[Knockout, ...]
    layers: tuple[int, ...]
    answer: int
    clean: float
    corrupt: float
    clean_candidates: Tensor
    corrupt_candidates: Tensor
    probabilities: Tensor
    predictions: Tensor
    candidates: Tensor

    @property
    def brought_back(self) -> Tensor:
        """p_restored - p_corrupt in percentage points, [knockout, layer]; of 100 (clean - corrupt) that were lost."""
        return (self.probabilities - self.corrupt) * 100


@torch.no_grad()
def restore(
    model: Any,
    inputs: Mapping[str, Any],
    corrupt: Mapping[str, Any],
    layout: Layout,
    knockouts: Sequence[Knockout | str],
    *,
    window: int = 9,
    style: Style = "center",
    layers: Sequence[int] | None = None,
    candidates: Sequence[int] = (),
    max_memory: int = DEFAULT_MEMORY,
    progress: bool = False,
) -> RestorationResult:
    """Gives the edges of each knockout back in the window of each layer of a corrupt run, and reads the last position.

    In the window's layers a target's rows read the source's keys and values of the clean run, at the same places; the
    softmax runs over these and over all other keys, which are the corrupt run's. Nothing is cut.

    Args:
        model: a decoder or VideoLLM of transformers, or what `lmms_flow.load` gave.
        inputs: of the clean run, for one prompt without padding; `input_ids` [1, token].
        corrupt: of the corrupt run: the same but for its pixels.
        layout: of the prompt, the same in both.
        knockouts: rules without layers, such as "video:question": the edges that are given back.
        window: how many layers they are given back in at once.
        style: which layers for a layer: a window around it, all but that window, from it on, or up to it.
        layers: limits the windows' layers, from 1; all by default.
        candidates: token ids whose probabilities are kept, such as the answer letters.
        max_memory: bytes for the forks' states; more forks than fit take more walks.
        progress: whether a bar is shown.

    Returns:
        Probabilities [knockout, layer] of the clean run's answer, beside those of the two runs.

    Raises:
        FlowError: a knockout or an input does not fit, or the two runs differ in more than their pixels.
        UnsupportedModelError: this model's rows can't be run apart from the prompt's.
    """
    model = module_of(model)
    decoder = check_mechanisms(model)
    if open_blocks(decoder):
        raise FlowError(f"{WHO} can't be run inside a block of intervene: it compares runs of full attention")
    inputs, corrupt = only_the_prompt(inputs, WHO), only_the_prompt(corrupt, WHO)
    check_pair(inputs, corrupt)
    check_prompt(inputs, layout, WHO)
    depth = len(decoder_layers(decoder))
    centres = check_layers(depth, window, style, layers)
    cuts = [as_knockout(each) for each in knockouts]
    check_candidates(candidates, model)
    resolved = [resolve_knockout(cut, layout, depth) for cut in cuts]
    check_windows(resolved, layer_windows(decoder))
    where = [frozenset(window_layers(layer, depth, window, style)) for layer in centres]
    forks = [Fork(first_row(cut), cut, each, RESTORED) for cut in resolved for each in where]
    if not forks:
        raise FlowError(f"{WHO} needs at least one knockout and one layer")
    if has_foreign_hooks(model):
        raise _cant_run_apart(decoder, "other people's hooks stand on it")
    prove(model)
    with eagerly():
        before, cache = _clean_run(model, inputs, layout.num_tokens, depth)
        bar = tqdm(
            chunks(forks, bytes_a_row(model), max_memory),
            desc="restoration",
            unit="walk",
            disable=not progress,
        )
        try:
            walked = [walk_forks(model, decoder, corrupt, chunk, cache) for chunk in bar]
        except CantForkError:
            raise _cant_run_apart(
                decoder, "its layers are told of each token what nobody knows here"
            ) from None
    return _result(cuts, centres, before, walked, candidates)


def check_pair(inputs: Mapping[str, Any], corrupt: Mapping[str, Any]) -> None:
    """Raises FlowError where two runs differ in more than their pixels: places could not be told from one another."""
    sizes = [
        tokens.shape[1]
        for each in (inputs, corrupt)
        if (tokens := each.get("inputs_embeds", each.get("input_ids"))) is not None
    ]
    if len(set(sizes)) > 1:
        raise FlowError(
            f"the clean prompt has {sizes[0]} tokens and the corrupt one {sizes[1]}: their edges can't be told "
            "from one another"
        )
    for name in sorted({*inputs, *corrupt}):
        one, other = inputs.get(name), corrupt.get(name)
        if not isinstance(one, Tensor) or not isinstance(other, Tensor):
            same = one is other or (one == other) is True
        elif one.is_floating_point() and other.is_floating_point():
            same = one.shape == other.shape
        else:
            same = torch.equal(one, other.to(one.device))
        if not same:
            raise FlowError(
                f"the clean and the corrupt run differ in {name}: they may differ in their pixels alone, as a clip and "
                "the same clip played backwards"
            )


def _clean_run(
    model: nn.Module, inputs: Mapping[str, Any], num_tokens: int, depth: int
) -> tuple[Tensor, DynamicCache]:
    """The last logits [vocabulary] of the clean run, and its keys and values of every layer."""
    cache = DynamicCache()
    out: Any = model(**inputs, **going_on_from(model, cache), **keeping(model, 1), use_cache=True)
    kept = [layer.keys.shape[2] for layer in cache.layers]
    if kept != [num_tokens] * depth:
        raise UnsupportedModelError(
            f"{type(model).__name__} does not keep the keys of its whole prompt in every layer: nothing can be "
            "restored from them"
        )
    logits: Tensor = out.logits[0, -1]
    return logits.float(), cache


def _cant_run_apart(decoder: nn.Module, why: str) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"{type(decoder).__name__}: {why}, so that rows can't be run apart from the prompt's, and edges can't be "
        "restored"
    )


def _result(
    cuts: Sequence[Knockout],
    centres: tuple[int, ...],
    before: Tensor,
    walked: Sequence[Tensor],
    candidates: Sequence[int],
) -> RestorationResult:
    """What is read from the clean logits [vocabulary] and the walks', each [1 + fork, vocabulary]."""
    clean, corrupt = before.softmax(-1), walked[-1][0].softmax(-1)
    after = torch.cat([walk[1:] for walk in walked]).softmax(-1)
    answer = int(clean.argmax())
    wanted = torch.tensor(candidates, dtype=torch.long, device=after.device)
    shape = (len(cuts), len(centres))
    return RestorationResult(
        tuple(cuts),
        centres,
        answer,
        float(clean[answer]),
        float(corrupt[answer]),
        clean[wanted].cpu(),
        corrupt[wanted].cpu(),
        after[:, answer].reshape(shape).cpu(),
        after.argmax(-1).reshape(shape).cpu(),
        after[:, wanted].reshape(*shape, len(candidates)).cpu(),
    )
