"""A wrapper with questions about real clips: what the checks look at."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import ProcessorMixin
from transformers.video_utils import load_video

from lmms_flow.engine import decoder_layers, find_decoder
from lmms_flow.flow import Layout
from lmms_flow.inputs.forms import FORMS, question_text
from lmms_flow.inputs.groups import EncodedPrompt, find_groups
from lmms_flow.inputs.video import Frames, read_frames
from lmms_flow.runner.loaded import ALL_GROUPS, LoadedModel

from .findings import NotTriedError

QUESTION, OPTIONS = "Where does the red square move to?", ("To the left.", "To the right.")
LONGER = (
    "What happens in the video, from its first frame to its last one?",
    ("It rises.", "It falls.", "Neither."),
)


class _ReachedError(Exception):
    """Raised at the decoder's first layer: what comes behind it is not needed."""


@dataclass(frozen=True, eq=False)
class Asked:
    """One question about one clip, as the wrapper hands it to its model."""

    messages: list[dict[str, Any]]
    text: str
    frames: Frames
    prompt: EncodedPrompt
    tensors: Mapping[str, Tensor]
    layout: Layout


@dataclass(frozen=True, eq=False)
class Case:
    """A loaded wrapper and a clip.

    Args:
        wrapper: a `FlowModel`.
        clip: a video file.
    """

    wrapper: Any
    clip: str

    @property
    def loaded(self) -> LoadedModel:
        """The model with its chat."""
        loaded: LoadedModel = self.wrapper.loaded
        return loaded

    @property
    def model(self) -> Any:
        """Of transformers."""
        return self.loaded.model

    @property
    def num_layers(self) -> int:
        """Of its decoder."""
        return len(decoder_layers(find_decoder(self.model)))

    @cached_property
    def frames(self) -> Frames:
        """Of the clip, as the wrapper takes them."""
        args = self.loaded.args
        return read_frames(self.clip, args.num_frames, sampling=self.loaded.sampling, reader=args.reader)

    @cached_property
    def asked(self) -> Asked:
        """A question of two options."""
        return self.ask(QUESTION, OPTIONS, self.frames)

    @cached_property
    def longer(self) -> Asked:
        """Another question, of another length, about other pixels."""
        return self.ask(*LONGER, self.with_other_pixels(range(len(self.frames.indices))))

    def ask(self, question: str, options: Sequence[str], frames: Frames) -> Asked:
        """A question about these frames, through the wrapper's own chat."""
        chat = self.loaded.chat
        messages = self.loaded.messages(self.clip, question, options)
        text = chat.render(messages)
        prompt, tensors = chat.prompt(text, frames)
        doc = {"question": question, "candidates": list(options), "answer_letter": "A"}
        groups = find_groups(
            prompt, question_text(FORMS[self.loaded.form], question, options), doc, ALL_GROUPS
        )
        return Asked(messages, text, frames, prompt, tensors, groups.layout)

    def with_frames(self, frames: Frames) -> Asked:
        """The first question about other frames."""
        return self.ask(QUESTION, OPTIONS, frames)

    def inputs(self, *asked: Asked) -> dict[str, Tensor]:
        """A batch for the model, on its device."""
        return self.loaded.batch([one.prompt for one in asked], [one.tensors for one in asked])

    def states(self, asked: Asked) -> Tensor:
        """What enters the first layer of the decoder, [token, width]."""
        seen: list[Tensor] = []

        def look(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            seen.append(args[0] if args else kwargs["hidden_states"])
            raise _ReachedError

        handle = decoder_layers(find_decoder(self.model))[0].register_forward_pre_hook(look, with_kwargs=True)
        try:
            with torch.no_grad():
                self.model(**self.inputs(asked))
        except _ReachedError:
            pass
        finally:
            handle.remove()
        return seen[0][0].float().cpu()

    @property
    def processor(self) -> Any:
        """Of transformers, where it is one that reads videos. Raises NotTriedError otherwise."""
        processor = self.loaded.chat.processor
        if not isinstance(processor, ProcessorMixin) or not getattr(processor, "video_processor", None):
            raise NotTriedError("the checkpoint's processor reads no videos")
        return processor

    @cached_property
    def own_reading(self) -> Mapping[str, Any]:
        """What the model's processor makes of the same file and places in it, when it reads the file itself.

        Raises NotTriedError where it can't.
        """
        processor, asked = self.processor, self.asked
        prefilled = asked.messages[-1]["role"] == "assistant"
        with _reading(processor.video_processor, self.frames.indices):
            try:
                out: Mapping[str, Any] = processor.apply_chat_template(
                    asked.messages,
                    tokenize=True,
                    return_dict=True,
                    return_tensors="pt",
                    add_generation_prompt=not prefilled,
                    continue_final_message=prefilled,
                    processor_kwargs={"do_sample_frames": True},
                )
            except ImportError as error:
                raise NotTriedError(str(error).splitlines()[0]) from None
        return out

    def with_other_pixels(self, frames: Sequence[int]) -> Frames:
        """The clip with the pixels of some frames turned into their opposites."""
        pixels = self.frames.pixels.copy()
        pixels[list(frames)] = 255 - pixels[list(frames)]
        return replace(self.frames, pixels=pixels)


@contextmanager
def _reading(video_processor: Any, indices: Sequence[int]) -> Iterator[None]:
    """Inside, the processor opens files by PyAV and takes these frames of them."""

    def fetch(videos: Any, sample_indices_fn: Any = None) -> Any:
        if isinstance(videos, list):
            return tuple(list(each) for each in zip(*map(fetch, videos), strict=True))
        return load_video(videos, backend="pyav", sample_indices_fn=lambda **_: np.array(indices))

    video_processor.fetch_videos = fetch
    try:
        yield
    finally:
        del video_processor.fetch_videos
