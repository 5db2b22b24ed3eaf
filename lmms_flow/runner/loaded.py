"""A loaded model: what answers and read-outs need of a checkpoint, in no way tied to the harness."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from lmms_flow.errors import SampleError
from lmms_flow.flow import Flow, Layout
from lmms_flow.flow.layout import BASE_GROUPS
from lmms_flow.harness.sample import Sample
from lmms_flow.inputs.chat import VideoChat
from lmms_flow.inputs.forms import FORMS, LETTERS, question_text
from lmms_flow.inputs.frame_order import FrameOrder
from lmms_flow.inputs.groups import EncodedPrompt, find_groups
from lmms_flow.inputs.read_ahead import Clip
from lmms_flow.inputs.video import Frames, read_frames
from lmms_flow.notebook import tokens
from lmms_flow.records.key import clip_digest, digest, file_identity

from .arguments import ModelArguments
from .flows import Flows

ALL_GROUPS = Flow.load("video:question")  # what a prompt must show before its groups are given out


@dataclass(frozen=True, eq=False)
class Prompt:
    """One question about one video, ready for the model.

    Args:
        inputs: what the model takes: `input_ids` [batch 1, token], `attention_mask`, pixels and what goes with them,
            on the model's device.
        layout: which tokens are which group.
        letters: the letters of the options, in their order; empty for an open question.
        frames: what was read of the video: indices, times, pixels [frame, height, width, 3].
        text: the rendered prompt, with one placeholder for the video.
        rule: by what the question was found in it.
        words: each token as the tokenizer writes it.
    """

    inputs: dict[str, Tensor]
    layout: Layout
    letters: tuple[str, ...]
    frames: Frames
    text: str
    rule: str
    words: tuple[str, ...] = ()

    def _repr_html_(self) -> str:
        """The tokens, coloured by group; a frame of the video is one piece."""
        layout = self.layout
        frames = {frame.start: (place, frame) for place, frame in enumerate(layout.frames)}
        named = {token: name for name in layout.own for span in layout.groups[name] for token in span}
        shown: list[tuple[str, str]] = []
        inside = range(0)
        for token, word in enumerate(self.words):
            if token in frames:
                place, inside = frames[token]
                shown.append((f" [frame {place}: {len(inside)} tokens] ", "video"))
            if token not in inside or token in named:
                shown.append((_written(word), named.get(token) or layout.group_of(token)))
        return tokens(shown, [*(name for name in BASE_GROUPS if layout.groups[name]), *layout.own])


def _written(word: str) -> str:
    """A token as it reads: tokenizers mark a space before a word, and a line's end, in their own ways."""
    return word.replace("▁", " ").replace("Ġ", " ").replace("Ċ", "⏎").replace("<0x0A>", "⏎")


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A checkpoint in memory. It can be called and generates like the transformers model in it (`.model`).

    Args:
        checkpoint: repository id or folder.
        chat: the model with its processor.
        args: as `--model_args` has them.
        flows: the flow that it was loaded with, and those of tasks.
        device, dtype: where it lies, in which numbers.
        sampling: which frames of a video are taken, where nothing else is said.
        form: how its questions are put, a name of `lmms_flow.inputs.forms.FORMS`.
    """

    checkpoint: str
    chat: VideoChat
    args: ModelArguments
    flows: Flows
    device: torch.device
    dtype: torch.dtype
    sampling: str = "midpoints"
    form: str = "paper"

    @property
    def model(self) -> Any:
        """The transformers model."""
        return self.chat.model

    @property
    def tokenizer(self) -> Any:
        """The tokenizer of its processor."""
        return self.chat.tokenizer

    def __call__(self, **inputs: Any) -> Any:
        """One forward of the model."""
        return self.model(**inputs)

    def generate(self, **inputs: Any) -> Any:
        """The model's own `generate`."""
        return self.model.generate(**inputs)

    @cached_property
    def vocabulary(self) -> dict[str, int]:
        """Token to id."""
        return dict(self.tokenizer.get_vocab())

    def tokens_of_letter(self, letter: str) -> list[int]:
        """The tokens that a letter may be: alone, or behind a space as tokenizers mark it."""
        forms = (letter, f"▁{letter}", f"Ġ{letter}")
        return [self.vocabulary[form] for form in forms if form in self.vocabulary]

    def prompt(
        self,
        video: str,
        question: str,
        options: Sequence[str] = (),
        *,
        answer: int | None = None,
        num_frames: int | None = None,
        frame_order: str = "",
        start: float | None = None,
        end: float | None = None,
    ) -> Prompt:
        """A question about a video as the paper puts it to this model, and where its groups are.

        Args:
            video: the file.
            question: its words.
            options: the words of each option, without letters; none for an open question.
            answer: which option is true (from 0), for the groups `true_option` and `false_options`.
            num_frames: of the video; the model's own number where it is left out.
            frame_order: `reversed`, `frozen` or `shuffled:seed1`; as it was filmed where it is left out.
            start: the clip's beginning in seconds.
            end: its end.

        Raises:
            SampleError: the video can't be read, or a group can't be found in the prompt.
        """
        if not question.strip():
            raise SampleError("the question is empty: write what is asked about the video")
        if len(options) == 1 or len(options) > len(LETTERS):
            raise SampleError(
                f"a question has 2 to {len(LETTERS)} options or none, this one has {len(options)}"
            )
        if answer is not None and not 0 <= answer < len(options):
            raise SampleError(
                f"answer={answer} names none of the {len(options)} options: their places count from 0"
            )
        messages = self.messages(video, question, options)
        doc: dict[str, Any] = {"question": question, "candidates": list(options)}
        if answer is not None:
            doc["answer_letter"] = LETTERS[answer]
        count = num_frames or self.args.num_frames
        frames = read_frames(
            video, count, start, end, self.sampling, reader=self.args.reader, timeout=self.args.video_timeout
        )
        order = frame_order or self.args.frame_order
        if order:
            frames = FrameOrder.parse(order).apply(frames, clip_digest(video))
        encoded, tensors = self.chat.prompt(self.chat.render(messages), frames)
        asked = str(messages[0]["content"][-1]["text"])
        groups = find_groups(encoded, asked, doc, ALL_GROUPS)
        inputs = self.batch([encoded], [tensors])
        words = tuple(map(str, self.tokenizer.convert_ids_to_tokens(list(encoded.input_ids))))
        return Prompt(inputs, groups.layout, groups.letters, frames, encoded.text, groups.rule, words)

    def messages(self, video: str, question: str, options: Sequence[str] = ()) -> list[dict[str, Any]]:
        """A question as a task hands it over, put as the paper puts it to this model.

        Args:
            video: the file.
            question: its words.
            options: the words of each option.
        """
        form = FORMS[self.form]
        asked = question_text(form, question, options)
        content = [{"type": "video", "url": str(video)}, {"type": "text", "text": asked}]
        messages: list[dict[str, Any]] = [{"role": "user", "content": content}]
        if options and form.answer:
            messages.append({"role": "assistant", "content": [{"type": "text", "text": form.answer}]})
        return messages

    def batch(
        self, prompts: Sequence[EncodedPrompt], tensors: Sequence[Mapping[str, Tensor]]
    ) -> dict[str, Tensor]:
        """Prompts, with the tensors beside each, as one call's inputs."""
        return self.on_device(self.chat.batch(prompts, tensors))

    def on_device(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The inputs on the model's device, pixels in its dtype."""
        return {
            name: tensor.to(self.device, self.dtype if tensor.is_floating_point() else None)
            for name, tensor in inputs.items()
        }

    def clip(self, sample: Sample) -> Clip | None:
        """Which frames of which file a sample is about; None for a question without a video."""
        media = [p for m in sample.messages for p in m["content"] if p.get("type") not in ("text", None)]
        videos = sample.videos()
        if len(media) != len(videos) or len(videos) > 1:
            kinds = ", ".join(sorted({str(part["type"]) for part in media}))
            raise SampleError(
                f"a question can have one video and nothing else, this one has {len(media)} media parts ({kinds})"
            )
        if not videos:
            return None
        video = videos[0]
        if not isinstance(video.get("url"), str):
            raise SampleError(
                f"the task gives its video as {type(video.get('url')).__name__}, not as a file's path"
            )
        count = int(video.get("num_frames") or self.args.num_frames)
        return Clip(
            video["url"],
            min(count, self.args.max_frames or count),
            video.get("start_time"),
            video.get("end_time"),
            video.get("sampling") or self.sampling,
            video.get("duration"),
            self.args.reader,
        )

    def frame_order(self, sample: Sample) -> FrameOrder | None:
        """In which order the frames of its video are shown; None: as they were filmed."""
        text = next((video["frame_order"] for video in sample.videos() if video.get("frame_order")), "")
        text = text or (self.args.frame_order if sample.videos() else "")
        return FrameOrder.parse(text) if text else None

    def clip_digest(self, sample: Sample) -> str:
        """The video's file by what is in it, wherever it lies; empty for a question without one."""
        clip = self.clip(sample)
        if clip is None:
            return ""
        return clip_digest(clip.path)

    def data_digest(self, sample: Sample) -> str:
        """What was asked about: the document without the place of its files, and the video's size and bounds."""
        clip = self.clip(sample)
        document = {name: value for name, value in sample.doc.items() if name not in ("video", "video_path")}
        video = None if clip is None else [file_identity(clip.path)["size"], clip.start, clip.end]
        return digest([document, video])[:16]
