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

from lmms_flow.engine import RestorationResult, SweepResult, restore, sweep
from lmms_flow.errors import FlowError, SampleError
from lmms_flow.flow.trace_settings import (
    ATTENTION,
    GENERATION_PROBABILITY,
    LOGIT_LENS,
    MAP,
    WORDS,
    TraceSettings,
    as_knockout,
)
from lmms_flow.inputs.groups import PromptGroups, Wanted
from lmms_flow.records.arrays import Arrays
from lmms_flow.trace.answers import WordFlow, word_flows, words_of
from lmms_flow.trace.attention import VideoAttention
from lmms_flow.trace.lens import LogitLens, layers_within
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
        corrupt: the inputs of the clip played backwards, where edges are given back in it.
        answer: the tokens that were generated.
    """

    loaded: LoadedModel
    settings: TraceSettings
    inputs: Mapping[str, Tensor]
    groups: PromptGroups
    corrupt: Mapping[str, Tensor] | None = None
    answer: Sequence[int] = ()

    def read(self) -> Arrays:
        """The named arrays of all kinds. Raises SampleError where the question has not what one of them needs."""
        tensors: dict[str, Tensor] = {}
        about: dict[str, Any] = self._about_prompt()
        if self.corrupt is not None:
            restored = self._restore(self.corrupt)
            tensors |= self._restoration(restored)
            about |= self._about_map(restored)
        elif MAP in self.settings.kinds:
            result = self._sweep()
            tensors |= self._map(result)
            about |= self._about_map(result)
        if WORDS in self.settings.kinds:
            flows = self._word_flows()
            tensors |= self._words_of_answer(flows)
            about |= self._about_words(flows)
        readouts = list(self._readouts())
        if readouts:
            tensors |= read_out(self.loaded.model, self.inputs, self.groups.layout, *readouts)
        if LENS_TOKENS in tensors:
            about["words"] = self._words(tensors[LENS_TOKENS])
            about["lens_layers"] = self._lens_layers
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

    @property
    def _lens_layers(self) -> list[int]:
        chosen = self.settings.lens_layers_in(self.loaded.flows.own.bound.num_layers)
        return layers_within(self.loaded.model, self.groups.layout) if chosen is None else list(chosen)

    # The map

    @property
    def _asked(self) -> dict[str, Any]:
        """What is asked of a sweep and of a restoration alike."""
        settings, num_layers = self.settings, self.loaded.flows.own.bound.num_layers
        return {
            "layout": self.groups.layout,
            "knockouts": [as_knockout(each) for each in settings.knockouts],
            "window": settings.window_in(num_layers),
            "style": settings.style,
            "layers": settings.centres(num_layers),
            "candidates": [
                token for letter in self._letters for token in self.loaded.tokens_of_letter(letter)
            ],
        }

    def _sweep(self) -> SweepResult:
        return sweep(self.loaded.model, self.inputs, **self._asked, how=self.settings.how)

    def _restore(self, corrupt: Mapping[str, Tensor]) -> RestorationResult:
        try:
            return restore(self.loaded.model, self.inputs, corrupt, **self._asked)
        except FlowError as error:
            raise SampleError(str(error)) from None

    def _counts(self) -> list[int]:
        """How many tokens may stand for each letter."""
        return [len(self.loaded.tokens_of_letter(letter)) for letter in self._letters]

    def _map(self, result: SweepResult) -> dict[str, Tensor]:
        """A letter's probability is that of all tokens that may stand for it."""
        counts = self._counts()
        return {
            "map.probability": result.probabilities.float(),
            "map.prediction": result.predictions.int(),
            "map.options": _summed(result.candidates, counts),
            "map.baseline": torch.tensor([result.baseline], dtype=torch.float32),
            "map.baseline_options": _summed(result.baseline_candidates, counts),
        }

    def _restoration(self, result: RestorationResult) -> dict[str, Tensor]:
        """As a map; beside the baseline, which is the clean run, what the corrupt run says."""
        counts = self._counts()
        return {
            "restoration.probability": result.probabilities.float(),
            "restoration.prediction": result.predictions.int(),
            "restoration.options": _summed(result.candidates, counts),
            "restoration.clean": torch.tensor([result.clean], dtype=torch.float32),
            "restoration.corrupt": torch.tensor([result.corrupt], dtype=torch.float32),
            "restoration.clean_options": _summed(result.clean_candidates, counts),
            "restoration.corrupt_options": _summed(result.corrupt_candidates, counts),
        }

    def _about_map(self, result: SweepResult | RestorationResult) -> dict[str, Any]:
        num_layers = self.loaded.flows.own.bound.num_layers
        return {
            "knockouts": [str(each) for each in result.knockouts],
            "centres": list(result.layers),
            "window": self.settings.window_in(num_layers),
            "style": self.settings.style,
            "how": self.settings.how,
            "answer_token": result.answer,
            "answer": self.loaded.tokenizer.decode([result.answer]),
        }

    # Words of the answer

    def _word_flows(self) -> tuple[WordFlow, ...]:
        settings, asked = self.settings, self._asked
        anchors = words_of(self.loaded.tokenizer, self.answer, frozenset(settings.words) or None)
        return word_flows(
            self.loaded.model,
            self.inputs,
            self.groups.layout,
            self.answer,
            anchors[: settings.anchors],
            settings.knockouts,
            window=asked["window"],
            style=asked["style"],
            layers=asked["layers"],
        )

    def _words_of_answer(self, flows: Sequence[WordFlow]) -> dict[str, Tensor]:
        grid = len(self.settings.knockouts), len(self._asked["layers"])
        probabilities = [each.probabilities.float() for each in flows]
        return {
            "words.probability": torch.stack(probabilities) if flows else torch.zeros(0, *grid),
            "words.baseline": torch.tensor([each.baseline for each in flows], dtype=torch.float32),
            "words.tokens": torch.tensor([each.token for each in flows], dtype=torch.int32),
        }

    def _about_words(self, flows: Sequence[WordFlow]) -> dict[str, Any]:
        return {
            "knockouts": list(self.settings.knockouts),
            "centres": list(self._asked["layers"]),
            "window": self._asked["window"],
            "style": self.settings.style,
            "anchors": [[each.anchor.place, each.anchor.word] for each in flows],
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
            yield LogitLens(layers=self._lens_layers)
        if ATTENTION in kinds:
            yield VideoAttention()


def _summed(candidates: Tensor, counts: Sequence[int]) -> Tensor:
    """Probabilities of each letter's tokens added up, fp32 [..., option]."""
    if not counts:
        return candidates.new_zeros(*candidates.shape[:-1], 0).float()
    parts = torch.split(candidates.float(), list(counts), dim=-1)
    return torch.stack([part.sum(-1) for part in parts], dim=-1)
