"""Answers the arms of a few questions: one video read, one vision pass, one baseline for all arms of a question."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from typing import Any

import torch
from loguru import logger
from torch import Tensor

from lmms_flow.engine import (
    Baseline,
    VisionPasses,
    intervene,
    one_vision_pass,
)
from lmms_flow.errors import (
    SAMPLE_FAILURES,
    SampleError,
)
from lmms_flow.flow import ResolvedFlow
from lmms_flow.harness.host_flags import DEFAULT_SEED
from lmms_flow.harness.sample import Outcome, Sample
from lmms_flow.inputs.frame_order import FrameOrder
from lmms_flow.inputs.read_ahead import Clip, ReadAhead
from lmms_flow.records.arrays import Arrays
from lmms_flow.records.key import digest
from lmms_flow.runner.generation import cut_at_stops, generation_arguments

from .asking import Asking
from .details import fields_of
from .preparing import Asked, Prepared, Preparer
from .tracing import Tracer


@dataclass
class _Encoding:
    """What the vision pass of a batch took."""

    seconds: float = 0.0
    flops: int = 0


class _Vision:
    """The vision passes of one answer: an arm that is served from another's pass has the same cost in its record."""

    def __init__(self, passes: VisionPasses) -> None:
        self.passes = passes
        self._known: dict[tuple[int, ...], _Encoding] = {}

    @contextmanager
    def of(self, questions: Sequence[Prepared]) -> Iterator[_Encoding]:
        """Inside the block a batch of these questions runs; what is yielded is right after it."""
        encoding = self._known.setdefault(tuple(map(id, questions)), _Encoding())
        seconds, flops = self.passes.seconds, self.passes.flops
        yield encoding
        encoding.seconds += self.passes.seconds - seconds
        if not encoding.flops:  # a pass that runs again costs the same
            encoding.flops = self.passes.flops - flops


class Answerer:
    """Answers batches of samples: what a run asks of a loaded model, with videos that `reader` reads ahead."""

    def __init__(self, asking: Asking, reader: ReadAhead) -> None:
        self.asking, self.loaded = asking, asking.loaded
        self.model, self.chat = self.loaded.model, self.loaded.chat
        self.reader, self._preparer = reader, Preparer(asking, reader)

    def announce(self, samples: Iterable[Sample]) -> None:
        """Starts to read the videos of samples that will be asked for soon."""
        clips = set()
        for sample in samples:
            with suppress(SampleError):  # it is told when the sample is asked for
                clips.add((sample.question, self.loaded.clip(sample), self.loaded.frame_order(sample)))
        for _, clip, _ in sorted(clips, key=str):
            if clip is not None:
                self.reader.announce(clip)

    def answer(self, samples: Sequence[Sample]) -> list[Outcome]:
        """One outcome a sample; those that can't be prepared don't keep the others from being answered."""
        outcomes: dict[int, Outcome] = {}
        asked: list[Asked] = []
        prepared: dict[tuple[str, Clip | None, FrameOrder | None], Prepared | SampleError] = {}
        for place, sample in enumerate(samples):
            try:
                asked.append(self._preparer.ask(place, sample, prepared))
            except SAMPLE_FAILURES as error:
                failure = error if isinstance(error, SampleError) else SampleError(str(error))
                outcomes[place] = Outcome.failed(failure)
        with one_vision_pass(self.model, count=True) as passes:
            vision = _Vision(passes)
            baselines = self._baselines(asked)
            for batch in _batches(asked, one_by_one=self.loaded.args.batch_size == 1):
                for one, outcome in zip(batch, self._generate(batch, baselines, vision), strict=True):
                    outcomes[one.place] = outcome
        return [outcomes[place] for place in range(len(samples))]

    # Running

    def _baselines(self, asked: Sequence[Asked]) -> dict[int, Baseline]:
        """A baseline for each question whose arms can go on from one.

        Which they are depends on the run's requests and not on which of them are still to be answered: a run that was
        killed goes on with the same numbers.
        """
        flows: dict[int, list[ResolvedFlow]] = {}
        for one in asked:
            if one.resolved is not None and self.asking.goes_on_from_baseline(one.sample):
                flows.setdefault(id(one.question), []).append(one.resolved)
        baselines = {question: Baseline.for_flows(resolved) for question, resolved in flows.items()}
        return {question: baseline for question, baseline in baselines.items() if baseline.layers}

    @torch.inference_mode()
    def _generate(
        self, batch: Sequence[Asked], baselines: Mapping[int, Baseline], vision: _Vision
    ) -> list[Outcome]:
        gen_kwargs = batch[0].sample.gen_kwargs
        inputs = self._inputs([one.question for one in batch])
        generation = {**generation_arguments(gen_kwargs), "pad_token_id": self.chat.pad_token_id}
        baseline = baselines.get(id(batch[0].question)) if len(batch) == 1 else None
        with vision.of([one.question for one in batch]) as encoding:
            if baseline is not None and batch[0].resolved is not None and not baseline.states:
                baseline = self._record(baseline, inputs, generation)
            start, encoded_before = time.perf_counter(), vision.passes.seconds
            with self._under(batch, baseline), _seeded(batch, gen_kwargs, self.asking.flags.seed):
                out = self.model.generate(
                    **inputs, **generation, return_dict_in_generate=True, output_logits=True
                )
            beams = len(out.logits[0]) // len(batch)
            probabilities = out.logits[0][::beams].float().softmax(-1).cpu()
            seconds = time.perf_counter() - start - (vision.passes.seconds - encoded_before)
            written = out.sequences[: len(batch), inputs["input_ids"].shape[1] :]
            arrays = self._trace(batch[0], inputs, written[0].tolist())
        answers = self.chat.tokenizer.batch_decode(written, skip_special_tokens=True)
        outcomes = [
            Outcome.ok(
                cut_at_stops(answer, gen_kwargs).strip(),
                first_token=self.chat.tokenizer.decode([first]),
                options={letter: self._probability(letter, row) for letter in one.question.letters},
                milliseconds=round(1000 * seconds / len(batch), 3),
                shared_milliseconds=round(1000 * (one.question.seconds + encoding.seconds / len(batch)), 3),
                **fields_of(self.loaded, one, encoding.flops // len(batch)),
            )
            for one, answer, row, first in zip(
                batch, answers, probabilities, written[:, 0].tolist(), strict=True
            )
        ]
        return outcomes if arrays is None else [replace(outcomes[0], arrays=arrays)]

    def _trace(self, one: Asked, inputs: Mapping[str, Tensor], answer: Sequence[int]) -> Arrays | None:
        """What a trace reads out of the same inputs; such a question runs in a batch of its own."""
        if one.trace is None or one.groups is None:
            return None
        corrupt = self._preparer.backwards(one.question) if one.trace.restores else None
        return Tracer(self.loaded, one.trace, inputs, one.groups, corrupt, answer).read()

    def _record(
        self, baseline: Baseline, inputs: Mapping[str, Tensor], generation: Mapping[str, Any]
    ) -> Baseline | None:
        """Records a baseline whose full-attention arm was answered by an earlier run; None if memory is too short."""
        try:
            with baseline.recording(self.model):
                self.model.generate(**inputs, **{**generation, "max_new_tokens": 1})
        except torch.OutOfMemoryError:
            logger.warning("out of memory for full attention: the arm runs on its own")
            return None
        return baseline

    def _under(self, batch: Sequence[Asked], baseline: Baseline | None) -> AbstractContextManager[Any]:
        """What the batch runs in: its flow, or the recording of what other arms go on from."""
        arm = batch[0].arm
        if not arm.flow.needs_masks:
            return nullcontext() if baseline is None else baseline.recording(self.model)
        layouts = [one.groups.layout for one in batch if one.groups is not None]
        return intervene(self.model, arm.flow, layouts, engine=self.loaded.args.engine, baseline=baseline)

    def _inputs(self, questions: Sequence[Prepared]) -> dict[str, Tensor]:
        """The batch on the model's device, pixels in its dtype."""
        return self.loaded.batch([one.prompt for one in questions], [one.tensors for one in questions])

    def _probability(self, letter: str, probabilities: Tensor) -> float:
        """The probability that the answer begins with this letter, with or without a space in front of it."""
        return float(probabilities[self.loaded.tokens_of_letter(letter)].sum())


def _batches(asked: Sequence[Asked], one_by_one: bool) -> list[list[Asked]]:
    """What runs in one call: one number and order of frames, one flow, one way to generate.

    Arms that share a vision pass follow one another, full attention first: the others go on from it.
    """
    batches: dict[Any, list[Asked]] = {}
    for one in sorted(asked, key=_turn):
        like = (*_shown(one), one.arm.bound.digest, digest(one.sample.gen_kwargs))
        key = one.place if one_by_one or one.trace is not None else like
        batches.setdefault(key, []).append(one)
    return list(batches.values())


@contextmanager
def _seeded(batch: Sequence[Asked], gen_kwargs: Mapping[str, Any], seed: int) -> Iterator[None]:
    """A sampled answer depends on its question and the run's seed, and on nothing that ran before it."""
    if not generation_arguments(gen_kwargs)["do_sample"]:
        yield
        return
    asked = [[one.question.prompt.text, one.sample.repeat] for one in batch]
    with torch.random.fork_rng():
        torch.manual_seed(int(digest([asked, seed] if seed != DEFAULT_SEED else asked)[:12], 16))
        yield


def _turn(one: Asked) -> tuple[Any, ...]:
    return *_shown(one), one.arm.flow.needs_masks, one.place


def _shown(one: Asked) -> tuple[int, tuple[int, ...]]:
    """How many frames, the most first, and in which order."""
    frames = one.question.frames
    return (-len(frames.indices), frames.places) if frames else (0, ())
