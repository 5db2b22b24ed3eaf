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
from .fork import RESTORED, CantForkError
from .hooks import has_foreign_hooks, open_blocks
from .layer_call import going_on_from, keeping
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

WHO = "a restoration"


@dataclass(frozen=True, repr=False)
class RestorationResult(ForkReadOut):
    """What was read at the last position of a corrupt run, with the edges given back.

    `answer` is the clean run's. `clean` and `corrupt` are its probability in the two runs, `clean_candidates` and
    `corrupt_candidates` [candidate] those of the tokens that were asked for.
    """

    clean: float
    corrupt: float
    clean_candidates: Tensor
    corrupt_candidates: Tensor

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
    check_candidates(candidates, model)
    back = forks_of(
        decoder, layout, knockouts, window=window, style=style, layers=layers, how=RESTORED, who=WHO
    )
    if has_foreign_hooks(model):
        raise _cant_run_apart(decoder, "other people's hooks stand on it")
    prove(model)
    with eagerly():
        before, cache = _clean_run(model, inputs, layout.num_tokens, len(decoder_layers(decoder)))
        walks = chunks(back.forks, model, max_memory)
        bar = tqdm(walks, desc="restoration", unit="walk", disable=not progress or len(walks) < 2)
        try:
            walked = [walk_forks(model, decoder, corrupt, chunk, cache) for chunk in bar]
        except CantForkError as error:
            raise _cant_run_apart(
                decoder, str(error) or "its layers are told of each token what nobody knows here"
            ) from None
    clean, corrupted = before.softmax(-1), walked[-1][0].softmax(-1)
    read, wanted = back.read(walked, int(clean.argmax()), candidates), list(candidates)
    return RestorationResult(
        **vars(read),
        clean=float(clean[read.answer]),
        corrupt=float(corrupted[read.answer]),
        clean_candidates=clean[wanted].cpu(),
        corrupt_candidates=corrupted[wanted].cpu(),
    )


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
