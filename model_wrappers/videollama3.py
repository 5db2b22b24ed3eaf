"""`videollama3_flow`: VideoLLaMA3, in its original form or transformers' own."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers import PreTrainedConfig, VideoLlama3VideoProcessor

from lmms_flow.errors import SampleError
from lmms_flow.inputs.chat import Messages, VideoChat
from lmms_flow.inputs.clock import printed
from lmms_flow.inputs.image_chat import own_template
from lmms_flow.inputs.tokenizer import load_tokenizer
from lmms_flow.inputs.video import Frames

from .base import FlowModel
from .conversion.videollama3 import MERGED, NATIVE, ORIGINAL, is_original, load_videollama3
from .conversion.videollama3_vision import run_as_the_scripts_did

TOKENS_PER_FRAME = 144  # at most, 28 x 28 pixels each: the paper's budget of 8 x 144 for 8 frames
MIN_TOKENS = 16  # of a frame
# What the original template writes, with one placeholder for the whole video.
TEMPLATE = (
    "{%- for message in messages -%}"
    "{{- '<|im_start|>' + message['role'] + '\\n' -}}"
    "{%- for part in message['content'] -%}"
    "{%- if part['type'] == 'video' -%}{{- '<image>\\n' -}}"
    "{%- elif part['type'] == 'text' -%}{{- part['text'] -}}{%- endif -%}"
    "{%- endfor -%}"
    "{{- '<|im_end|>\\n' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"
)


class VideoLlama3Flow(FlowModel):
    """VideoLLaMA3-7B (the default, the paper's) and its kin."""

    default_checkpoint = "DAMO-NLP-SG/VideoLLaMA3-7B"
    model_types = (ORIGINAL, NATIVE)
    form = "videollama3"
    sampling: ClassVar[str] = "linspace"  # from the first frame to the last one, as its own loader does
    has_released_vision: ClassVar[bool] = True

    def load(self, source: str) -> VideoChat:
        """The model and its chat, from the native form or converted from the original one."""
        values, _ = PreTrainedConfig.get_config_dict(source, revision=self.args.revision)
        chat = VideoLlama3Chat(source, values, self.hub_arguments, self.loading_arguments)
        if self.args.released_vision:
            run_as_the_scripts_did(chat.model)
        return chat


class VideoLlama3Chat(VideoChat):
    """A VideoLLaMA3 checkpoint: each frame is its time, its tokens, and a comma before the next one.

    `values` is the checkpoint's config.json; `hub` and `loading` are what `from_pretrained` takes for the tokenizer's
    files and for the model. Similar tokens of neighbouring frames are kept (no token compression), as in the paper.
    """

    keeps_breaks = True

    def __init__(
        self, source: str, values: dict[str, Any], hub: dict[str, Any], loading: dict[str, Any]
    ) -> None:
        model = load_videollama3(source, values, loading)
        model.generation_config.repetition_penalty = None  # an answer is the likeliest token, as in the paper
        tokenizer = load_tokenizer(source, hub, by_files=True)
        token = str(tokenizer.convert_ids_to_tokens(model.config.video_token_id))
        super().__init__(model, tokenizer, video_token=token)
        own = None if is_original(values) else own_template(source, tokenizer, hub["revision"])
        self.template = own or TEMPLATE.replace("<image>", token)
        self.video_processor = _video_processor(
            source, hub["revision"], model.config.vision_config.patch_size
        )

    def render(self, messages: Messages) -> str:
        """The prompt as text, with one placeholder for the whole video."""
        return self.apply_template(self.tokenizer, messages, self.template)

    def encode(self, text: str, frames: Frames | None) -> tuple[list[int], dict[str, Tensor]]:
        """Token ids, and for the vision tower `pixel_values_videos` [patch, value] and its grid [video, axis]."""
        if frames is None:
            return list(self.tokenize(text)["input_ids"]), {}
        video = torch.from_numpy(frames.pixels).permute(0, 3, 1, 2)
        out = self.video_processor(
            videos=[video], size=_pixel_budget(len(video), self.video_processor), return_tensors="pt"
        )
        per_frame = int(out["video_grid_thw"][0, 1:].prod()) // MERGED**2
        shown = [f"Time {printed(time)}s:{self.video_token * per_frame}" for time in timestamps(frames)]
        ids = list(self.tokenize(text.replace(self.video_token, ",".join(shown), 1))["input_ids"])
        names = ("pixel_values_videos", "video_grid_thw", "video_merge_sizes")
        return ids, {name: out[name] for name in names}

    def frame_spans(self, input_ids: Sequence[int], video: range, num_frames: int) -> tuple[range, ...]:
        """The time belongs to its frame, and the comma between two frames to the second one (the paper's)."""
        return self.spans_ending_with(self.video_token, input_ids, video, num_frames)


def timestamps(frames: Frames) -> list[float]:
    """The seconds that the prompt names, as the original loader has them (`shown_times`).

    Where the file states no duration, that of the frames from the first to the last one counts: by the frame rate alone
    the last one would start a frame earlier. Raises SampleError where there is no frame rate either.
    """
    if frames.shown:
        return list(frames.shown)
    if not (math.isfinite(frames.fps) and frames.fps > 0):
        raise SampleError(
            "VideoLLaMA3's prompt names the time of each frame, and the file states no frame rate"
        )
    first, last = frames.indices[0], frames.indices[-1]
    stretch = (last - first + 1) / max(1, last - first)
    return [(first + (index - first) * stretch) / frames.fps for index in frames.indices]


def _video_processor(source: str, revision: str, patch_size: int) -> VideoLlama3VideoProcessor:
    """With the checkpoint's own pixel constants where it ships some."""
    fixed = {"patch_size": patch_size, "merge_size": MERGED, "use_token_compression": False}
    try:
        values, _ = VideoLlama3VideoProcessor.get_video_processor_dict(source, revision=revision)
    except OSError:  # it ships none
        values = {}
    constants = {name: values[name] for name in ("image_mean", "image_std") if values.get(name)}
    return VideoLlama3VideoProcessor(do_sample_frames=False, **fixed, **constants)


def _pixel_budget(num_frames: int, processor: VideoLlama3VideoProcessor) -> Mapping[str, int]:
    """In pixels: the least of a frame, the most of all frames together."""
    token = (processor.patch_size * MERGED) ** 2
    return {"shortest_edge": MIN_TOKENS * token, "longest_edge": num_frames * TOKENS_PER_FRAME * token}
