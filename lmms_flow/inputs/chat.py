"""A loaded checkpoint: how a task's messages and a video's frames become the model's inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
import torch
from torch import Tensor

from lmms_flow.errors import SampleError
from lmms_flow.inputs.groups import EncodedPrompt
from lmms_flow.inputs.video import Frames

Messages = Sequence[Mapping[str, Any]]
PROCESSORS = ("image_processor", "video_processor")  # parts of a processor


class VideoChat:
    """A VideoLLM and its processor, as most of transformers' are.

    A family that does it otherwise overrides `render`, `encode` or `frame_spans`.

    Args:
        model: of transformers.
        processor: that goes with it.
        video_token: what stands for the video in a rendered prompt, once; the processor's own by default.
    """

    keeps_breaks = False  # see EncodedPrompt

    def __init__(self, model: Any, processor: Any, video_token: str | None = None) -> None:
        self.model = model
        self.processor = processor
        self.tokenizer: Any = getattr(processor, "tokenizer", processor)
        self.video_token: str = video_token or processor.video_token

    @property
    def settings(self) -> tuple[Any, ...]:
        """What changes an answer beside the weights: processors with a `to_dict`."""
        parts = (self.processor, *(getattr(self.processor, name, None) for name in PROCESSORS))
        return tuple(
            part for part in (*parts, getattr(self, "image_processor", None)) if hasattr(part, "to_dict")
        )

    @property
    def fit(self) -> str:
        """How a frame becomes the square that its tokens lie in.

        "crop" takes its middle, "squash" all of it; empty where the processor does neither, or does not say.
        """
        for part in self.settings[::-1]:  # the video's own before the whole
            if getattr(part, "do_center_crop", None):
                return "crop"
            size = getattr(part, "size", None)
            height, width = (
                size.get(side) if isinstance(size, Mapping) else getattr(size, side, None)
                for side in ("height", "width")
            )
            if getattr(part, "do_resize", None) and height and height == width:
                return "squash"
        return ""

    def render(self, messages: Messages) -> str:
        """The prompt as text, with the placeholder where the video goes."""
        return self.apply_template(self.processor, messages)

    def apply_template(self, chat: Any, messages: Messages, template: str | None = None) -> str:
        """Applies a chat template; an assistant's message at the end is the beginning of the answer.

        Args:
            chat: a tokenizer or processor.
            messages: of the task, in order.
            template: in the place of `chat`'s own.

        Returns:
            The prompt as text.

        Raises:
            SampleError: the template refuses the messages.
        """
        prefilled = messages[-1]["role"] == "assistant"
        try:
            text = chat.apply_chat_template(
                [dict(message) for message in messages],
                chat_template=template,
                tokenize=False,
                add_generation_prompt=not prefilled,
                continue_final_message=prefilled,
            )
        except (jinja2.TemplateError, ValueError) as error:  # ValueError: there is none
            raise SampleError(f"the chat template refuses the task's messages ({error})") from None
        return str(text)

    def encode(self, text: str, frames: Frames | None) -> tuple[list[int], dict[str, Tensor]]:
        """The prompt in tokens, with the video's in the place of the placeholder.

        Args:
            text: the rendered prompt.
            frames: of its video, pixels [frame, height, width, 3]; None where it has none.

        Returns:
            Token ids, one a token of the prompt, and by name the tensors beside them: pixels, mostly as
            [batch 1, frame, channel, height, width], and what the family's processor adds.
        """
        videos = None if frames is None else [torch.from_numpy(frames.pixels).permute(0, 3, 1, 2)]
        out = self.processor(
            text=[text],
            videos=videos,
            do_sample_frames=False,
            add_special_tokens=self.adds_special_tokens(text),
            return_tensors="pt",
        )
        beside = {name: value for name, value in out.items() if isinstance(value, Tensor)}
        ids = beside.pop("input_ids")[0].tolist()
        beside.pop("attention_mask", None)
        return ids, beside

    def frame_spans(self, input_ids: Sequence[int], video: range, num_frames: int) -> tuple[range, ...]:
        """The tokens of each frame. As it stands here: equal shares of the video.

        Args:
            input_ids: one a token of the prompt.
            video: the places of the video's tokens.
            num_frames: how many frames there are.

        Returns:
            A range of places for each frame; together they are `video`.

        Raises:
            SampleError: the tokens can't be told apart by frames.
        """
        size, rest = divmod(len(video), num_frames)
        if rest:
            raise SampleError(f"{len(video)} video tokens can't be shared by {num_frames} frames")
        return tuple(range(start, start + size) for start in video[::size])

    def spans_ending_with(
        self, token: str, input_ids: Sequence[int], video: range, num_frames: int
    ) -> tuple[range, ...]:
        """Frames that each end with a run of one token; what stands between two runs belongs to the frame behind it.

        Args:
            token: such as the tag that closes a picture.
            input_ids: one a token of the prompt.
            video: the places of the video's tokens.
            num_frames: how many frames there are.

        Returns:
            A range of places for each frame; together they are `video`.

        Raises:
            SampleError: the number of runs is not that of the frames.
        """
        wanted = self.tokenizer.convert_tokens_to_ids(token)
        ends = [
            place + 1
            for place in video
            if input_ids[place] == wanted and (place + 1 == video.stop or input_ids[place + 1] != wanted)
        ]
        if len(ends) != num_frames or ends[-1] != video.stop:
            raise SampleError(f"the prompt has {len(ends)} runs of {token} for {num_frames} frames")
        return tuple(range(*span) for span in zip([video.start, *ends], ends, strict=False))

    def tokenize(self, text: str, **arguments: Any) -> Any:
        """The tokenizer's output; a template that writes the beginning-of-sequence token gets no second one."""
        return self.tokenizer(text, add_special_tokens=self.adds_special_tokens(text), **arguments)

    def adds_special_tokens(self, text: str) -> bool:
        """Whether the tokenizer is to add them to this prompt."""
        begin = self.tokenizer.bos_token
        return begin is None or not text.startswith(begin)

    def prompt(self, text: str, frames: Frames | None) -> tuple[EncodedPrompt, dict[str, Tensor]]:
        """The prompt with the place of each token in the text; the video's tokens are what the placeholder became.

        Returns:
            The prompt, and by name the tensors beside its ids, with a batch axis [1, ...] as `encode` gave them.

        Raises:
            SampleError: the placeholder does not stand in the prompt once, or the video's tokens can't be told.
        """
        plain = self.tokenize(text, return_offsets_mapping=True)
        ids, offsets = list(plain["input_ids"]), [tuple(pair) for pair in plain["offset_mapping"]]
        placeholder = self.tokenizer.convert_tokens_to_ids(self.video_token)
        # Before the processor sees them: each fails in a way of its own where the videos don't suffice.
        if frames is not None and ids.count(placeholder) != 1:
            raise SampleError(
                f"the prompt has {ids.count(placeholder)} placeholders {self.video_token} for one video"
            )
        input_ids, tensors = self.encode(text, frames)
        if frames is None:
            prompt = EncodedPrompt(text, tuple(input_ids), tuple(offsets), range(0), (), self.keeps_breaks)
            return prompt, tensors
        before = ids.index(placeholder)
        after = len(ids) - before - 1
        video = range(before, len(input_ids) - after)
        if input_ids[:before] != ids[:before] or input_ids[video.stop :] != ids[before + 1 :]:
            raise SampleError(
                "the processor changes the text around the video: the groups can't be told from it"
            )
        spread = [*offsets[:before], *(offsets[before] for _ in video), *offsets[before + 1 :]]
        spans = self.frame_spans(input_ids, video, len(frames.indices))
        _check_merged(tensors, len(spans))
        prompt = EncodedPrompt(text, tuple(input_ids), tuple(spread), video, spans, self.keeps_breaks)
        return prompt, tensors

    def batch(
        self, prompts: Sequence[EncodedPrompt], tensors: Sequence[Mapping[str, Tensor]]
    ) -> dict[str, Tensor]:
        """Several prompts as one call's inputs.

        Args:
            prompts: in the batch's order.
            tensors: what `prompt` gave beside each.

        Returns:
            `input_ids` and `attention_mask` [batch, token], padded on the left as all tensors with a value a token
            are, and every other tensor one sample after another along its first axis.
        """
        if len(prompts) > 1:
            _check_batch(tensors)
        width = max(len(prompt.input_ids) for prompt in prompts)
        rows = [torch.tensor([prompt.input_ids]) for prompt in prompts]
        inputs = {
            "input_ids": torch.cat([_pad(row, width, self.pad_token_id) for row in rows]),
            "attention_mask": torch.cat([_pad(torch.ones_like(row), width, 0) for row in rows]),
        }
        for name in {name: None for one in tensors for name in one}:  # a question without a video has none
            parts = [
                _pad(one[name], width, 0) if one[name].shape == row.shape else one[name]
                for one, row in zip(tensors, rows, strict=True)
                if name in one
            ]
            inputs[name] = torch.cat(parts)
        return inputs

    @property
    def pad_token_id(self) -> int:
        """What fills a shorter row; no token ever reads it."""
        pad, end = self.tokenizer.pad_token_id, self.tokenizer.eos_token_id
        return int(pad if pad is not None else end if end is not None else 0)


# Whole numbers beside a prompt that say the same of a sample wherever it stands in a batch.
_OF_A_SAMPLE = frozenset(
    {"image_grid_thw", "video_grid_thw", "video_grids", "image_sizes", "second_per_grid_ts", "pixel_attention_mask",
     "num_frames", "num_frames_per_video", "video_position_ids", "video_merge_sizes", "video_compression_mask"}
)  # fmt: skip


def _check_batch(tensors: Sequence[Mapping[str, Tensor]]) -> None:
    """Whole numbers may be places among all patches of a batch: one after another they would mean other patches.

    Raises SampleError for such a tensor that is not known here; one number a token is padded like the tokens.
    """
    for one in tensors:
        for name, tensor in one.items():
            counts = not tensor.is_floating_point() and tensor.dtype not in (torch.uint8, torch.bool)
            if counts and name not in _OF_A_SAMPLE and not name.endswith("token_type_ids"):
                raise SampleError(
                    f"what {name!r} of this model's processor means in a batch is not known: write batch_size=1, or "
                    "override VideoChat.batch (docs/adding-a-model.md)"
                )


def _check_merged(tensors: Mapping[str, Tensor], found: int) -> None:
    """A processor that merges frames says how many are left: equal shares of the tokens would be parts of frames."""
    grid = tensors.get("video_grid_thw")
    left = found if grid is None else int(grid.reshape(-1, 3)[:, 0].sum())
    if left != found:
        raise SampleError(
            f"the processor makes {left} frames of those that were read (it merges some), and frame_spans says "
            f"{found}: override it (docs/adding-a-model.md)"
        )


def _pad(row: Tensor, width: int, value: int) -> Tensor:
    return torch.nn.functional.pad(row, (width - row.shape[1], 0), value=value)
