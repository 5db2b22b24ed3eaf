"""Where each word of a generated answer comes from (paper, Fig D): a flow map of every word.

The answer is cut right in front of a word, and what has been generated so far stands in the prompt: `answer` is its
tokens, `last` the newest of them. One sweep then tells what each edge does to the probability of the word that follows.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..engine.sweep import SweepResult, sweep
from ..engine.walks import Style, as_knockout
from ..errors import FlowError
from ..flow import Knockout, Layout
from ..flow.trace_settings import OPEN_ENDED

OPEN_TOKENS = 1  # in front of the last one, which the paper's code leaves open
_WORD = re.compile(r"\w+")
# Tensors with a value a token, and the value of a token of text.
_OF_TOKENS = {"attention_mask": 1, "token_type_ids": 0, "mm_token_type_ids": 0}


@dataclass(frozen=True)
class Anchor:
    """A word of an answer: the place of its first token among those that were generated, from 0."""

    place: int
    word: str


@dataclass(frozen=True)
class WordFlow:
    """The map of one word.

    `probabilities` [knockout, layer]: of the word's first token, `baseline` without a cut. A knockout with nothing to
    cut yet (no answer stands in front of the first word) leaves the baseline.
    """

    anchor: Anchor
    knockouts: tuple[Knockout, ...]
    layers: tuple[int, ...]
    token: int
    baseline: float
    probabilities: Tensor

    @property
    def relative_change(self) -> Tensor:
        """(p_knockout - p_base) / p_base in per cent, [knockout, layer]."""
        return (self.probabilities - self.baseline) / self.baseline * 100


def words_of(
    tokenizer: Any, tokens: Sequence[int], words: Collection[str] | None = None
) -> tuple[Anchor, ...]:
    """The words of an answer and where they begin; `words` (in lower case) limits them, such as to its verbs."""
    text = tokenizer.decode(list(tokens), skip_special_tokens=True)
    ends = [
        len(tokenizer.decode(list(tokens[: n + 1]), skip_special_tokens=True)) for n in range(len(tokens))
    ]
    found = []
    for match in _WORD.finditer(text):
        place = next((n for n, end in enumerate(ends) if end > match.start()), None)
        if place is not None and (words is None or match[0].lower() in words):
            found.append(Anchor(place, match[0]))
    return tuple(found)


def word_flows(
    model: Any,
    inputs: Mapping[str, Any],
    layout: Layout,
    tokens: Sequence[int],
    anchors: Sequence[Anchor],
    knockouts: Sequence[Knockout | str] = OPEN_ENDED,
    *,
    window: int = 9,
    style: Style = "center",
    layers: Sequence[int] | None = None,
    open_tokens: int = OPEN_TOKENS,
) -> tuple[WordFlow, ...]:
    """The flow of each word of a generated answer; one sweep a word.

    Args:
        model: a decoder or VideoLLM of transformers, or what `lmms_flow.load` gave.
        inputs: of the prompt, without its answer; one prompt without padding.
        layout: of the prompt.
        tokens: that were generated, greedily.
        anchors: the words, as `words_of` gives them.
        knockouts: rules without layers; the paper's five by default.
        window: how many layers are cut at once.
        style: which layers are cut for a layer, as in `sweep`.
        layers: limits the windows' layers, from 1; all by default.
        open_tokens: so many tokens in front of `last` are in no group that is cut.

    Returns:
        Of each word that the model writes again in front of what it wrote; a word whose token is not the most probable
        one there (other rounding, sampling) has no flow and is left out, as in the paper's code.

    Raises:
        FlowError: an input or a word does not fit.
    """
    flows = []
    cuts = [as_knockout(each) for each in knockouts]
    for anchor in anchors:
        if not 0 <= anchor.place < len(tokens):
            raise FlowError(
                f"the word {anchor.word!r} is token {anchor.place} of an answer of {len(tokens)} tokens"
            )
        begun = layout.with_answer(anchor.place, open_tokens if anchor.place else 0)
        acting = [cut for cut in cuts if cut.rectangles(begun)]
        if not acting:
            raise FlowError(f"no knockout cuts anything in front of the word {anchor.word!r}")
        asked = with_answer(inputs, layout.num_tokens, tokens[: anchor.place])
        result = sweep(model, asked, begun, acting, window=window, style=style, layers=layers)
        if result.answer == tokens[anchor.place]:
            flows.append(_flow(anchor, cuts, acting, result))
    return tuple(flows)


def with_answer(inputs: Mapping[str, Any], num_tokens: int, tokens: Sequence[int]) -> dict[str, Any]:
    """The inputs of a prompt of `num_tokens` with what was generated behind it, as text.

    Raises FlowError for a tensor with a value a token of which nothing is known here.
    """
    if not tokens:
        return dict(inputs)
    ids = inputs.get("input_ids")
    if not isinstance(ids, Tensor):
        raise FlowError("an answer is put behind input_ids: inputs_embeds can't be gone on from")
    more = torch.tensor([list(tokens)], dtype=ids.dtype, device=ids.device)
    found = {**inputs, "input_ids": torch.cat([ids, more], dim=1)}
    for name, value in inputs.items():
        if name == "input_ids" or not isinstance(value, Tensor) or tuple(value.shape) != (1, num_tokens):
            continue
        if name not in _OF_TOKENS:
            raise FlowError(
                f"{name} has a value for each token, and what an answer's would be is not known: leave it out"
            )
        found[name] = torch.cat([value, value.new_full((1, len(tokens)), _OF_TOKENS[name])], dim=1)
    return found


def _flow(
    anchor: Anchor, cuts: Sequence[Knockout], acting: Sequence[Knockout], result: SweepResult
) -> WordFlow:
    probabilities = torch.full((len(cuts), len(result.layers)), result.baseline)
    for place, cut in enumerate(cuts):
        if cut in acting:
            probabilities[place] = result.probabilities[acting.index(cut)]
    return WordFlow(anchor, tuple(cuts), result.layers, result.answer, result.baseline, probabilities)
