"""Generation probability: when, on the way through the layers, the answer appears (paper, section 3.4 and Fig 9)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from ..engine.head import Head
from ..errors import FlowError
from ..flow import Layout
from .reading import ReadOut, read_out

Letter: TypeAlias = int | str | Sequence[int]


class GenerationProbability(ReadOut):
    """Of each option's tokens, by layer; see `generation_probability`. `letters` are token ids, several an option."""

    def __init__(self, letters: Sequence[int | Sequence[int]]) -> None:
        self._letters = [[each] if isinstance(each, int) else list(each) for each in letters]
        self._states: list[Tensor] = []

    def begin(self, model: nn.Module, layout: Layout) -> None:
        """Finds the head, and looks at the letters."""
        self._states = []
        self._head = Head.of(model)
        vocabulary = len(self._head.weight)
        if not self._letters:
            raise FlowError("generation probability needs the tokens of at least one option")
        for letter in self._letters:
            if not letter or any(not 0 <= token < vocabulary for token in letter):
                raise FlowError(
                    f"an option's tokens {letter} are not in the vocabulary of {vocabulary} tokens"
                )

    def leaves(self, layer: int, states: Tensor) -> None:
        """Keeps the last token's, of states [token, width]."""
        self._states.append(states[-1].clone())

    def ends(self, states: Tensor, logits: Tensor | None) -> None:
        """Puts the kept states through the head; the last layer is `states` [token, width] behind the final norm."""
        assert logits is not None
        device = self._head.weight.device
        self._head.check(self._states[-1], states[-1], logits)
        earlier = [state.to(device) for state in self._states[:-1]]
        last = logits.to(device)[None]
        raw = [self._head.logits(torch.stack(earlier))] if earlier else []
        normed = [self._head.logits(self._head.normed(torch.stack(earlier)))] if earlier else []
        self._found = {
            "generation_probability.head": self._of_options(torch.cat([*raw, last])),
            "generation_probability.normed": self._of_options(torch.cat([*normed, last])),
        }

    def _of_options(self, logits: Tensor) -> Tensor:
        probabilities = logits.softmax(-1)
        return torch.stack([probabilities[:, tokens].sum(-1) for tokens in self._letters], -1).cpu()

    def tensors(self) -> dict[str, Tensor]:
        """`generation_probability.head` and `.normed`, fp32 [layer, option]."""
        return self._found


def generation_probability(
    model: Any, inputs: Mapping[str, Any], layout: Layout, letters: Sequence[Letter]
) -> dict[str, Tensor]:
    """How probable each option's letter is as the next token, read out of every layer (paper, section 3.4, Fig 9).

    The last token's state behind each layer goes through the model's own head, in one prefill: with what its family
    does to logits, softmax in fp32. The last layer is what the model says itself in both: its states are handed out
    behind the final norm, as the paper's code reads them.

    Args:
        model: a VideoLLM of transformers, or what `lmms_flow.load` gave.
        inputs: the model's, for one prompt without padding.
        layout: of the prompt.
        letters: of the options: a token's id or several that mean the letter, whose probabilities are added; with what
            `lmms_flow.load` gave also the letter itself, "A".

    Returns:
        `generation_probability.head`: without the final norm (as the paper has it for LLaVA and InternVL), and
        `generation_probability.normed`: with it (VideoLLaMA3). fp32 [layer, option], layers from 1.

    Raises:
        FlowError: the inputs are not the layout's prompt, or a letter is no token.
        UnsupportedModelError: the model's head does something that is not known.
    """
    return read_out(model, inputs, layout, GenerationProbability(tokens_of(model, letters)))


def tokens_of(model: Any, letters: Sequence[Letter]) -> list[list[int]]:
    """The token ids of each letter."""
    found = []
    for letter in letters:
        if isinstance(letter, str):
            ask = getattr(model, "tokens_of_letter", None)
            if ask is None:
                raise FlowError(
                    f"the letter {letter!r} has no tokens in a bare model: give its token ids, or what "
                    "lmms_flow.load returned"
                )
            found.append(list(ask(letter)))
        else:
            found.append([letter] if isinstance(letter, int) else list(letter))
    return found
