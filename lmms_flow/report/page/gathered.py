"""The read-outs of all questions that were asked alike, added up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ...errors import ReportError
from ..arms import benchmark_of
from ..joining import frames_of, model_of
from ..table import one_line
from ..traces import Traced
from .parts import asked_of

TARGETS = ("question", "options", "last")


@dataclass
class Gathered:
    """What the read-outs of questions that were asked alike add up to."""

    checkpoint: str
    benchmark: str
    protocol: str
    frames: int  # asked for, of each video
    clips: dict[str, list[str]] = field(default_factory=dict)
    probabilities: dict[str, list[NDArray[np.float64]]] = field(default_factory=dict)  # each [layer]
    words: dict[int, Counter[str]] = field(default_factory=dict)  # of each layer that was read
    attention: dict[str, list[NDArray[np.float64]]] = field(default_factory=dict)  # each [layer, frame]
    merged: int = 1  # frames of the video that are one in the prompt, as in pairs

    @property
    def title(self) -> str:
        """Whose they are, and of how many frames."""
        return asked_of(self.benchmark, self.checkpoint, self.frames, self.protocol)

    def add(self, one: Traced) -> None:
        """Reads the arrays of one question. Raises ReportError where they are not what they should be."""
        if not any(name.startswith(("generation_", "logit_", "attention.")) for name in one.record.shapes):
            return
        arrays = one.arrays()
        try:
            self._probability(arrays.values, arrays.about, one.cluster)
            self._lens(arrays.values, arrays.about)
            in_prompt = len(arrays.about.get("frames") or ()) or 1
            self.merged = max(self.merged, len(one.record.frames) // in_prompt)
            for target in TARGETS:
                values = arrays.values.get(f"attention.{target}")
                if values is not None and values.size:
                    self.attention.setdefault(target, []).append(values.mean(axis=1, dtype=np.float64))
        except (KeyError, TypeError, ValueError, IndexError) as error:
            place = one.folder / one.record.arrays
            raise ReportError(
                f"{place}: not the read-outs of a trace ({error}); delete it and run again"
            ) from None

    def _probability(
        self, values: Mapping[str, NDArray[np.float32]], about: Mapping[str, object], clip: str
    ) -> None:
        letters, true = list(about["letters"]), about["true_letter"]  # type: ignore[call-overload]
        for kind in ("head", "normed"):
            array = values.get(f"generation_probability.{kind}")
            if array is None or true not in letters:
                continue
            place = letters.index(true)
            false = np.delete(array, place, axis=1)
            self._note(f"{kind} true", 100 * array[:, place].astype(np.float64), clip)
            if false.shape[1]:
                self._note(f"{kind} false", 100 * false.mean(axis=1, dtype=np.float64), clip)

    def _note(self, name: str, curve: NDArray[np.float64], clip: str) -> None:
        self.probabilities.setdefault(name, []).append(curve)
        self.clips.setdefault(name, []).append(clip)

    def _lens(self, values: Mapping[str, NDArray[np.int32]], about: Mapping[str, object]) -> None:
        tokens = values.get("logit_lens.tokens")
        if tokens is None:
            return
        names = about.get("words")
        words = names if isinstance(names, Mapping) else {}
        layers = about.get("lens_layers") or range(1, len(tokens) + 1)
        for layer, of_layer in zip(layers, tokens[..., 0], strict=True):  # type: ignore[call-overload]
            ids, counts = np.unique(of_layer, return_counts=True)
            counter = self.words.setdefault(layer, Counter())
            for token, count in zip(ids.tolist(), counts.tolist(), strict=True):
                counter[word_of(words.get(str(token)), token)] += count


def word_of(text: object, token: int) -> str:
    """A token as a row's name: spaces are shown, so that `of` and ` of` are told apart."""
    return (
        f"token {token}"
        if not isinstance(text, str) or not text
        else one_line(text.replace(" ", "␣"), 18) or "␣"
    )


def gather(traced: Sequence[Traced]) -> list[Gathered]:
    """The read-outs of all traced questions, by checkpoint, benchmark, protocol and number of frames."""
    found: dict[tuple[str, str, str, int], Gathered] = {}
    for one in traced:
        record = one.record
        benchmark = benchmark_of(record.base or record.task)
        key = model_of(record), benchmark, record.protocol, frames_of(record)
        found.setdefault(key, Gathered(*key)).add(one)
    return [found[key] for key in sorted(found)]
