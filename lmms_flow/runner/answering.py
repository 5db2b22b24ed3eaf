"""Answers the arms of a few questions: one video read, one vision pass, one baseline for all arms of a question."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch
from loguru import logger
from torch import Tensor

from lmms_flow.engine import (
    Baseline,
    VisionPasses,
    find_decoder,
    intervene,
    ledger,
    one_vision_pass,
)
from lmms_flow.engine.both_ways import edges_of, reads_both_ways
from lmms_flow.engine.windows import edges_in_window, kept_edges_in, layer_windows
from lmms_flow.errors import (
    SAMPLE_FAILURES,
    FlowError,
    SampleError,
    SkippedSampleError,
    UnsupportedModelError,
    UserError,
)
from lmms_flow.flow import ResolvedFlow
from lmms_flow.flow.trace_settings import TraceSettings
from lmms_flow.harness.host_flags import DEFAULT_SEED
from lmms_flow.harness.sample import Outcome, Sample, describe
from lmms_flow.inputs.frame_order import FrameOrder
from lmms_flow.inputs.groups import EncodedPrompt, PromptGroups, find_groups
from lmms_flow.inputs.options import find_options
from lmms_flow.inputs.read_ahead import Clip, ReadAhead
from lmms_flow.inputs.video import Frames
from lmms_flow.records.arrays import Arrays
from lmms_flow.records.fields import PromptFields
from lmms_flow.records.key import digest
from lmms_flow.runner.generation import cut_at_stops, generation_arguments

from ..inputs.chat import Messages
from .asking import Asking
from .flows import ArmFlow
from .frame_mixing import embedded, mixes_frames
from .tracing import Tracer, wanted


@dataclass(frozen=True, eq=False)
class Prepared:
    """A question, ready for the model: the prompt in tokens and the tensors beside it."""

    prompt: EncodedPrompt
    tensors: Mapping[str, Tensor]  # pixels and the like, everything but input_ids and attention_mask
    frames: Frames | None
    user_text: str
    letters: tuple[str, ...]
    seconds: float  # that it took


@dataclass(frozen=True, eq=False)
class Asked:
    """One arm of a prepared question."""

    place: int  # among the samples that are answered together
    sample: Sample
    question: Prepared
    arm: ArmFlow
    groups: PromptGroups | None
    resolved: ResolvedFlow | None
    trace: TraceSettings | None = None


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
        self.reader = reader
        self._mixes_frames: bool | None = None  # until it was tried

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
                asked.append(self._ask(place, sample, prepared))
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

    # Preparing

    def _ask(self, place: int, sample: Sample, prepared: dict[Any, Prepared | SampleError]) -> Asked:
        arm = self.loaded.flows.of(sample.task, sample.metadata)
        asked = self.chat.render(sample.messages), self.loaded.clip(sample), self.loaded.frame_order(sample)
        if asked not in prepared:
            try:
                prepared[asked] = self._prepare(*asked, sample)
            except SampleError as error:  # of all arms of the question
                prepared[asked] = error
        question = prepared[asked]
        if isinstance(question, SampleError):
            raise question
        if not arm.flow.needs_masks:
            return self._asked_plainly(place, sample, question, arm)
        with _of_the_document():
            groups = find_groups(question.prompt, question.user_text, sample.doc, arm.flow)
        return Asked(place, sample, question, arm, groups, arm.bound.resolve(groups.layout))

    def _asked_plainly(self, place: int, sample: Sample, question: Prepared, arm: ArmFlow) -> Asked:
        """Under full attention groups are needed for a trace alone."""
        trace, groups = self.asking.trace(sample.task, sample.metadata), None
        if trace is not None:
            with _of_the_document():
                groups = find_groups(question.prompt, question.user_text, sample.doc, wanted(trace))
        return Asked(place, sample, question, arm, groups, None, trace)

    def _prepare(self, text: str, clip: Clip | None, order: FrameOrder | None, sample: Sample) -> Prepared:
        frames, reading = (None, 0.0) if clip is None else self.reader.take(clip)
        start = time.perf_counter()
        if frames is not None and order is not None:
            frames = self._in_order(text, frames, order, self.loaded.clip_digest(sample))
        prompt, tensors = self.chat.prompt(text, frames)
        user_text = _user_text(sample.messages)
        with _of_the_document():
            letters = tuple(option.letter for option in find_options(user_text.strip(), sample.doc))
        return Prepared(prompt, tensors, frames, user_text, letters, reading + time.perf_counter() - start)

    def _in_order(self, text: str, filmed: Frames, order: FrameOrder, clip: str) -> Frames:
        """The frames in another order. The model's vision tower is tried once, on the first question.

        Raises SkippedSampleError where the order changes nothing, or where the tower does not see frame by frame.
        """
        shown = order.apply(filmed, clip)
        if shown.displayed == filmed.indices:
            raise SkippedSampleError(
                f"frame_order={order} changes nothing: the clip has {len(filmed.indices)} frame"
            )
        if self._mixes_frames is None:
            prompt, tensors = self.chat.prompt(text, filmed)
            _, others = self.chat.prompt(text, shown)
            inputs = [self.loaded.on_device(self.chat.batch([prompt], [each])) for each in (tensors, others)]
            self._mixes_frames = len(prompt.frames) != len(shown.places) or mixes_frames(
                embedded(self.model, inputs[0]), embedded(self.model, inputs[1]), prompt.frames, shown.places
            )
        if self._mixes_frames:
            raise SkippedSampleError(
                f"frame_order={order}: this model's vision tower does not see each frame by itself, so frames in "
                "another order would be other pictures"
            )
        return shown

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
                **self._details(one, encoding.flops // len(batch)),
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
        corrupt = self._backwards(one.question) if one.trace.restores else None
        return Tracer(self.loaded, one.trace, inputs, one.groups, corrupt, answer).read()

    def _backwards(self, question: Prepared) -> dict[str, Tensor]:
        """The inputs of the same prompt about the clip played backwards. Raises SampleError where it means nothing."""
        frames = question.frames
        if frames is None:
            raise SampleError("restoration plays the clip backwards, and this question has no video")
        if len(frames.indices) < 2:
            raise SampleError("restoration plays the clip backwards, and one frame has no order")
        prompt, tensors = self.chat.prompt(question.prompt.text, FrameOrder("reversed").apply(frames))
        if prompt.input_ids != question.prompt.input_ids:
            raise SampleError(
                f"played backwards, the clip has other tokens ({len(prompt.input_ids)} in the prompt, not "
                f"{len(question.prompt.input_ids)}): its edges can't be told from those of the clip"
            )
        return self.loaded.on_device(self.chat.batch([prompt], [tensors]))

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
        return self.loaded.on_device(
            self.chat.batch([one.prompt for one in questions], [one.tensors for one in questions])
        )

    def _probability(self, letter: str, probabilities: Tensor) -> float:
        """The probability that the answer begins with this letter, with or without a space in front of it."""
        return float(probabilities[self.loaded.tokens_of_letter(letter)].sum())

    def _video(self, sample: Sample) -> str:
        """Where the file of its frames is."""
        clip = self.loaded.clip(sample)
        return os.path.abspath(clip.path) if clip else ""

    def _details(self, one: Asked, vision: int) -> PromptFields:
        """The fields of a sample's record that depend on its prompt; `vision` are the FLOPs of its vision pass."""
        frames = one.question.frames
        num_tokens = len(one.question.prompt.input_ids)
        windows = layer_windows(find_decoder(self.model)) or (None,) * one.arm.bound.num_layers
        full = sum(edges_in_window(num_tokens, window) for window in windows)
        kept, total = kept_edges_in(one.resolved, windows) if one.resolved else (full, full)
        if reads_both_ways(self.model):  # its own masks say what there is
            ((kept, total),) = edges_of(self.model, self._inputs([one.question]), [one.resolved])
        empty = one.resolved.empty if one.resolved else ()
        layout = num_tokens if one.resolved is None or one.groups is None else one.groups.layout
        try:
            cost = ledger(self.model, one.arm.flow, layout, self.loaded.args.engine, vision=vision)
        except (
            FlowError,
            UnsupportedModelError,
        ) as error:  # an answer is right without a count of what it cost
            _warn_once(f"no FLOPs are recorded: {error}")
            cost = None
        return {
            "frames": frames.displayed if frames else (),
            "unit": _unit(one.question.prompt) if frames else "",
            "reader": frames.reader if frames else "",
            "edges_kept": kept,
            "edges_total": total,
            "flops": cost.flops if cost else None,
            "flops_full": cost.flops_full if cost else None,
            "groups_rule": one.groups.rule if one.groups else "",
            "notes": (
                *(f"{rule} cuts nothing here: a group is empty" for rule in empty),
                *(frames.notes if frames else ()),
            ),
            "prompt_digest": digest(one.question.prompt.text)[:16],
            "data_digest": self.loaded.data_digest(one.sample),
            "clip": self.loaded.clip_digest(one.sample),
            "video": self._video(one.sample),
        }


@contextmanager
def _of_the_document() -> Iterator[None]:
    """What a document's fields are not as they should be for is that sample's failure, not the run's."""
    try:
        yield
    except UserError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise SampleError(f"the document can't be read ({describe(error)})") from error


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


def _unit(prompt: EncodedPrompt) -> str:
    return "frame" if prompt.unit == 1 else f"{prompt.unit} frames"


def _turn(one: Asked) -> tuple[Any, ...]:
    return *_shown(one), one.arm.flow.needs_masks, one.place


def _shown(one: Asked) -> tuple[int, tuple[int, ...]]:
    """How many frames, the most first, and in which order."""
    frames = one.question.frames
    return (-len(frames.indices), frames.places) if frames else (0, ())


@lru_cache(maxsize=64)
def _warn_once(text: str) -> None:
    """What is the same for every sample of a run."""
    logger.warning(text)


def _user_text(messages: Messages) -> str:
    """The text of the last user turn, as the task wrote it."""
    turns = [message for message in messages if message["role"] == "user"]
    parts = [part["text"] for part in turns[-1]["content"] if part.get("type") == "text"] if turns else []
    return parts[-1] if parts else ""
