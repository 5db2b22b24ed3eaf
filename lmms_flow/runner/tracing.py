"""What a trace reads out of one question, beside its answer: the sweep of a map, and the read-outs of one prefill.

Each kind is a function of `trace/` or `engine/` over (model, inputs, layout); here they get what the loaded model
knows, and what they give is put under its names, with what a reader must know of the axes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lmms_flow.engine import SweepResult, sweep
from lmms_flow.errors import SampleError
from lmms_flow.flow.trace_settings import (
    ATTENTION,
    GENERATION_PROBABILITY,
    LOGIT_LENS,
    MAP,
    TraceSettings,
    as_knockout,
)
from lmms_flow.inputs.groups import PromptGroups, Wanted
from lmms_flow.records.arrays import Arrays
from lmms_flow.trace.attention import VideoAttention
from lmms_flow.trace.lens import LogitLens
from lmms_flow.trace.probability import GenerationProbability
from lmms_flow.trace.reading import ReadOut, read_out

from .loaded import LoadedModel

LENS_TOKENS = "logit_lens.tokens"


def wanted(settings: TraceSettings) -> Wanted:
    """The groups that a trace needs to know of a prompt."""
    return Wanted(settings.groups, f"the trace ({', '.join(settings.kinds)})")


@dataclass(frozen=True, eq=False)
class Tracer:
    """A trace of one question.

    Args:
        loaded: the model.
        settings: what is read out.
        inputs: the model's, for one prompt without padding.
        groups: of the prompt.
    """

    loaded: LoadedModel
    settings: TraceSettings
    inputs: Mapping[str, Tensor]
    groups: PromptGroups

    def read(self) -> Arrays:
        """The named arrays of all kinds. Raises SampleError where the question has not what one of them needs."""
        tensors: dict[str, Tensor] = {}
        about: dict[str, Any] = self._about_prompt()
        if MAP in self.settings.kinds:
            result = self._sweep()
            tensors |= self._map(result)
            about |= self._about_map(result)
        readouts = list(self._readouts())
        if readouts:
            tensors |= read_out(self.loaded.model, self.inputs, self.groups.layout, *readouts)
        if LENS_TOKENS in tensors:
            about["words"] = self._words(tensors[LENS_TOKENS])
        return Arrays({name: tensor.cpu().numpy() for name, tensor in tensors.items()}, about)

    @property
    def _letters(self) -> Sequence[str]:
        return self.groups.letters

    def _about_prompt(self) -> dict[str, Any]:
        layout = self.groups.layout
        return {
            "num_layers": self.loaded.flows.own.bound.num_layers,
            "num_tokens": layout.num_tokens,
            "groups": {
                name: [[each.start, each.stop] for each in span] for name, span in layout.groups.items()
            },
            "frames": [[frame.start, frame.stop] for frame in layout.frames],
            "fit": self.loaded.chat.fit,
            "letters": list(self._letters),
            "true_letter": self.groups.true,
            "letter_tokens": {letter: self._read_as(letter) for letter in self._letters},
        }

    def _read_as(self, letter: str) -> list[int]:
        """The tokens that are this letter when they are decoded alone, as the paper's code reads an answer."""
        decode = self.loaded.tokenizer.decode
        return [token for token in self.loaded.tokens_of_letter(letter) if decode([token]) == letter]

    def _words(self, tokens: Tensor) -> dict[str, str]:
        """What the most probable tokens of a lens are called, each decoded alone: who reads the arrays has no model."""
        first: list[int] = torch.unique(tokens[..., 0]).tolist()
        return {str(token): self.loaded.tokenizer.decode([token]) for token in first}

    # The map

    def _sweep(self) -> SweepResult:
        settings, num_layers = self.settings, self.loaded.flows.own.bound.num_layers
        candidates = [token for letter in self._letters for token in self.loaded.tokens_of_letter(letter)]
        return sweep(
            self.loaded.model,
            self.inputs,
            self.groups.layout,
            [as_knockout(each) for each in settings.knockouts],
            window=settings.window_in(num_layers),
            style=settings.style,  # type: ignore[arg-type]
            layers=settings.centres(num_layers),
            candidates=candidates,
        )

    def _map(self, result: SweepResult) -> dict[str, Tensor]:
        """A letter's probability is that of all tokens that may stand for it."""
        counts = [len(self.loaded.tokens_of_letter(letter)) for letter in self._letters]
        return {
            "map.probability": result.probabilities.float(),
            "map.prediction": result.predictions.int(),
            "map.options": _summed(result.candidates, counts),
            "map.baseline": torch.tensor([result.baseline], dtype=torch.float32),
            "map.baseline_options": _summed(result.baseline_candidates, counts),
        }

    def _about_map(self, result: SweepResult) -> dict[str, Any]:
        num_layers = self.loaded.flows.own.bound.num_layers
        return {
            "knockouts": [str(each) for each in result.knockouts],
            "centres": list(result.layers),
            "window": self.settings.window_in(num_layers),
            "style": self.settings.style,
            "answer_token": result.answer,
            "answer": self.loaded.tokenizer.decode([result.answer]),
        }

    # Read-outs of one prefill

    def _readouts(self) -> Iterator[ReadOut]:
        kinds = self.settings.kinds
        if GENERATION_PROBABILITY in kinds:
            letters = [self.loaded.tokens_of_letter(letter) for letter in self._letters]
            missing = [each for each, tokens in zip(self._letters, letters, strict=True) if not tokens]
            if missing:
                raise SampleError(f"the option {missing[0]} is no single token of this model's vocabulary")
            yield GenerationProbability(letters)
        if LOGIT_LENS in kinds:
            yield LogitLens()
        if ATTENTION in kinds:
            yield VideoAttention()


def _summed(candidates: Tensor, counts: Sequence[int]) -> Tensor:
    """Probabilities of each letter's tokens added up, fp32 [..., option]."""
    if not counts:
        return candidates.new_zeros(*candidates.shape[:-1], 0).float()
    parts = torch.split(candidates.float(), list(counts), dim=-1)
    return torch.stack([part.sum(-1) for part in parts], dim=-1)
