"""Which chat a native model of transformers gets, and how large its frames may be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import ProcessorMixin, processing_utils

from lmms_flow.errors import CheckpointError
from lmms_flow.inputs.chat import Messages, VideoChat
from lmms_flow.inputs.frames_chat import FramesChat
from lmms_flow.inputs.groups import EncodedPrompt
from lmms_flow.inputs.processor_chat import ProcessorChat

_OMNI: Any = getattr(processing_utils, "OmniModalProcessorMixin", ())  # from 5.24 on
AREA = (
    "shortest_edge",
    "longest_edge",
)  # the names of a size that is a number of pixels, where both are given


class OneVisionChat(ProcessorChat):
    """LLaVA-OneVision: one token behind all frames, which the last frame takes."""

    trailing = 1


class Molmo2Chat(ProcessorChat):
    """Molmo 2: its processor begins each prompt with a token that its template leaves out."""

    def render(self, messages: Messages) -> str:
        """The prompt as text, from its first token on."""
        begin = str(self.tokenizer.bos_token or self.tokenizer.eos_token)
        text = super().render(messages)
        return text if text.startswith(begin) else begin + text

    def batch(
        self, prompts: Sequence[EncodedPrompt], tensors: Sequence[Mapping[str, Tensor]]
    ) -> dict[str, Tensor]:
        """Several prompts as one call's inputs; which patches a token pools is counted through the whole batch."""
        pooled, moved, before = [], [], 0
        for one in tensors:
            rest = dict(one)
            places = rest.pop(POOLING, None)
            moved.append(rest)
            if places is not None:
                pooled.append(
                    torch.where(places < 0, places, places + before)
                )  # a negative one pools nothing
                before += one["pixel_values_videos"].shape[:2].numel()
        inputs = super().batch(prompts, moved)
        return inputs | ({POOLING: torch.cat(pooled)} if pooled else {})


POOLING = "video_token_pooling"  # [token, patch of the token], places among the patches of all frames
OWN: Mapping[str, type[ProcessorChat]] = {  # model type -> the chat of a family with something of its own
    "llava_onevision": OneVisionChat,
    "molmo2": Molmo2Chat,
}


def chat_for(model: Any, processor: Any) -> VideoChat:
    """The chat of a model by what its processor can do. Raises CheckpointError where it takes no pictures at all."""
    if not isinstance(processor, ProcessorMixin):
        return VideoChat(model, processor)
    if getattr(processor, "video_processor", None) is not None and processor.video_token:
        return OWN.get(model.config.model_type, ProcessorChat)(model, processor)
    if getattr(processor, "image_processor", None) is not None:
        return FramesChat(model, processor)
    raise CheckpointError(
        f"{type(processor).__name__} takes neither videos nor images: this checkpoint can't be asked about a video"
    )


def check_processor(processor: Any) -> None:
    """Raises CheckpointError for a processor that writes other things than text and pictures into a video's place."""
    if isinstance(processor, _OMNI):
        raise CheckpointError(
            f"{type(processor).__name__}: sound is interleaved with the tokens of the frames, and flows have no group "
            "for it"
        )


def limit_pixels(processor: Any, least: int | None, most: int | None) -> None:
    """Writes into a processor how large a frame may be, so that no later default changes it.

    Args:
        processor: of a model.
        least: pixels, where the user says it; else as the processor has it.
        most: pixels, the same.

    Raises:
        CheckpointError: its frames have one size, which no number of pixels says.
    """
    videos = getattr(processor, "video_processor", None) or getattr(processor, "image_processor", None)
    if videos is None:
        return
    if getattr(videos, "cap_pixels_per_frame", False) is None:
        videos.cap_pixels_per_frame = False  # what None has meant so far; it will mean True
    if least is None and most is None:
        return
    size = dict(getattr(videos, "size", None) or {})
    if not all(name in size for name in AREA):
        raise CheckpointError(
            f"min_pixels and max_pixels are for processors whose frames have a number of pixels, and "
            f"{type(videos).__name__} makes them {_told(size)}: leave them out"
        )
    size |= {name: value for name, value in zip(AREA, (least, most), strict=True) if value is not None}
    if size["shortest_edge"] > size["longest_edge"]:
        raise CheckpointError(
            f"min_pixels={size['shortest_edge']} is more than max_pixels={size['longest_edge']}: write both"
        )
    videos.size = type(videos.size)(**size) if hasattr(videos.size, "shortest_edge") else size


def pixel_limits(chat: VideoChat) -> str:
    """How large the frames of a chat are, in words for a record; empty where its processor does not say it."""
    processor = chat.processor
    videos = (
        getattr(processor, "video_processor", None)
        or getattr(chat, "image_processor", None)
        or getattr(processor, "image_processor", None)
    )
    size = dict(getattr(videos, "size", None) or {})
    told = _told({name: value for name, value in size.items() if value is not None})
    capped = getattr(videos, "cap_pixels_per_frame", None)
    return told if capped is None else f"{told}, cap_pixels_per_frame={capped}"


def _told(size: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in size.items())
