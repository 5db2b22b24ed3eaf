"""A question before it is asked: prompt, tensors, frames in their order, the groups that an arm cuts between."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from lmms_flow.errors import SampleError, SkippedSampleError, UserError
from lmms_flow.flow import ResolvedFlow
from lmms_flow.flow.trace_settings import TraceSettings
from lmms_flow.harness.sample import Sample, describe
from lmms_flow.inputs.frame_order import FrameOrder
from lmms_flow.inputs.groups import EncodedPrompt, PromptGroups, find_groups
from lmms_flow.inputs.options import find_options
from lmms_flow.inputs.read_ahead import Clip, ReadAhead
from lmms_flow.inputs.video import Frames

from ..inputs.chat import Messages
from .asking import Asking
from .flows import ArmFlow
from .frame_mixing import embedded, mixes_frames
from .tracing import wanted


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


class Preparer:
    """Makes samples ready for the model; `reader` reads their videos ahead."""

    def __init__(self, asking: Asking, reader: ReadAhead) -> None:
        self._asking, self._loaded, self._reader = asking, asking.loaded, reader
        self._chat, self._model = self._loaded.chat, self._loaded.model
        self._mixes_frames: bool | None = None  # until it was tried

    def ask(self, place: int, sample: Sample, prepared: dict[Any, Prepared | SampleError]) -> Asked:
        """A sample as one arm of its question; `prepared` holds the questions of its call.

        Raises SampleError where the question can't be prepared, and FlowError where the arm does not fit it.
        """
        arm = self._loaded.flows.of(sample.task, sample.metadata)
        asked = (
            self._chat.render(sample.messages),
            self._loaded.clip(sample),
            self._loaded.frame_order(sample),
        )
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
        trace, groups = self._asking.trace(sample.task, sample.metadata), None
        if trace is not None:
            with _of_the_document():
                groups = find_groups(question.prompt, question.user_text, sample.doc, wanted(trace))
        return Asked(place, sample, question, arm, groups, None, trace)

    def _prepare(self, text: str, clip: Clip | None, order: FrameOrder | None, sample: Sample) -> Prepared:
        frames, reading = (None, 0.0) if clip is None else self._reader.take(clip)
        start = time.perf_counter()
        if frames is not None and order is not None:
            frames = self._in_order(text, frames, order, self._loaded.clip_digest(sample))
        prompt, tensors = self._chat.prompt(text, frames)
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
            prompt, tensors = self._chat.prompt(text, filmed)
            _, others = self._chat.prompt(text, shown)
            inputs = [self._loaded.batch([prompt], [each]) for each in (tensors, others)]
            self._mixes_frames = len(prompt.frames) != len(shown.places) or mixes_frames(
                embedded(self._model, inputs[0]),
                embedded(self._model, inputs[1]),
                prompt.frames,
                shown.places,
            )
        if self._mixes_frames:
            raise SkippedSampleError(
                f"frame_order={order}: this model's vision tower does not see each frame by itself, so frames in "
                "another order would be other pictures"
            )
        return shown

    def backwards(self, question: Prepared) -> dict[str, Tensor]:
        """The inputs of the same prompt about the clip played backwards. Raises SampleError where it means nothing."""
        frames = question.frames
        if frames is None:
            raise SampleError("restoration plays the clip backwards, and this question has no video")
        if len(frames.indices) < 2:
            raise SampleError("restoration plays the clip backwards, and one frame has no order")
        prompt, tensors = self._chat.prompt(question.prompt.text, FrameOrder("reversed").apply(frames))
        if prompt.input_ids != question.prompt.input_ids:
            raise SampleError(
                f"played backwards, the clip has other tokens ({len(prompt.input_ids)} in the prompt, not "
                f"{len(question.prompt.input_ids)}): its edges can't be told from those of the clip"
            )
        return self._loaded.batch([prompt], [tensors])


@contextmanager
def _of_the_document() -> Iterator[None]:
    """What a document's fields are not as they should be for is that sample's failure, not the run's."""
    try:
        yield
    except UserError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise SampleError(f"the document can't be read ({describe(error)})") from error


def _user_text(messages: Messages) -> str:
    """The text of the last user turn, as the task wrote it."""
    turns = [message for message in messages if message["role"] == "user"]
    parts = [part["text"] for part in turns[-1]["content"] if part.get("type") == "text"] if turns else []
    return parts[-1] if parts else ""
