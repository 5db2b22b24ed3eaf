"""`llava_vid_flow`: the LLaVA kin. The paper's checkpoints, their image-only bases, and LLaVA-NeXT-Video."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from transformers import (
    AutoProcessor,
    AutoTokenizer,
    CLIPImageProcessor,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextVideoForConditionalGeneration,
    PreTrainedConfig,
)
from transformers.utils import cached_file

from lmms_flow import assets
from lmms_flow.flow import FlowError
from lmms_flow.harness.video import Frames

from .base import FlowModel, Messages

# The prompt of the paper's multiple-choice runs; a system message of the task takes the place of the sentence.
PAPER_SYSTEM = (
    "Carefully watch the video and pay attention to the cause and sequence of events, the detail and movement of "
    "objects, and the action and pose of persons. Based on your observations, select the best option that accurately "
    "addresses the question."
)
PAPER_TEMPLATE = (
    "{%- set system = messages[0] if messages[0]['role'] == 'system' else none -%}"
    "{%- if system -%}{{ system['content'] | selectattr('type', 'equalto', 'text') | map(attribute='text') | join }}"
    "{%- else -%}" + PAPER_SYSTEM + "{%- endif -%}{{ '\\n' }}"
    "{%- for message in messages if message['role'] != 'system' -%}"
    "{%- if message['role'] == 'user' -%}"
    "{%- for part in message['content'] -%}"
    "{%- if part['type'] == 'video' -%}{{ ' USER: <image>\\n' }}"
    "{%- elif part['text'] -%}{{ ' USER: ' + part['text'] }}{%- endif -%}"
    "{%- endfor -%}"
    "{%- else -%}{{ ' ASSISTANT:' + (message['content'] | map(attribute='text') | join) }}{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ ' ASSISTANT:' }}{%- endif -%}"
)
LONG_EDGE = 640  # of a frame before the vision tower's own resizing, in pixels


class PooledProjector(nn.Module):
    """The projector of an image model with each frame's features mean-pooled after it (the paper's 24x24 to 12x12)."""

    def __init__(self, projector: nn.Module, pooled: tuple[int, int]) -> None:
        super().__init__()
        self.projector = projector
        self.pooled = pooled

    def forward(self, features: Tensor) -> Tensor:
        """[frame, patch, width] to [frame, pooled patch, hidden]."""
        projected = self.projector(features)
        frames, patches, hidden = projected.shape
        side = int(patches**0.5)
        grid = projected.transpose(1, 2).reshape(frames, hidden, side, side)
        return nn.functional.adaptive_avg_pool2d(grid, self.pooled).flatten(2).transpose(1, 2)


class LlavaVidFlow(FlowModel):
    """LLaVA-NeXT-Video-FT (the default, the paper's), its image-only base, LLaVA-NeXT-Video and the bundled model."""

    default_checkpoint = "byminji/LLaVA-NeXT-7B-Video-FT"

    def resolve_checkpoint(self, name: str) -> str:
        return str(assets.flow_tiny_dir()) if name == "flow-tiny" else name

    def load(self, source: str) -> tuple[Any, Any]:
        values, _ = PreTrainedConfig.get_config_dict(source, revision=self.args.revision)
        kind = values.get("model_type")
        if kind == "llava_next_video":
            self._pooled = False
            self.processor = AutoProcessor.from_pretrained(source, **self.hub_arguments)
            self.video_token = self.processor.video_token  # type: ignore[misc]
            model = LlavaNextVideoForConditionalGeneration.from_pretrained(
                source, **self.from_pretrained_arguments
            )
            return model, self.processor.tokenizer
        if kind in ("llava", "llava_next"):
            self._pooled = True
            return self._load_pooled(source, values)
        raise FlowError(
            f"this is a {kind!r} checkpoint; llava_vid_flow runs llava, llava_next and llava_next_video checkpoints"
        )

    def _load_pooled(self, source: str, values: dict[str, Any]) -> tuple[Any, Any]:
        """A checkpoint in the paper's layout, or its image-only base, as one image model over pooled frames."""
        self.video_token = "<image>"  # type: ignore[misc]
        config = LlavaConfig.from_dict({**values, "model_type": "llava"})
        arguments = self.from_pretrained_arguments
        model = LlavaForConditionalGeneration.from_pretrained(source, config=config, **arguments)
        tokenizer = AutoTokenizer.from_pretrained(source, **self.hub_arguments)
        vision = config.vision_config
        side = vision.image_size // vision.patch_size
        shape = values.get("pooling_shape") or (0, side // 2, side // 2)
        self._pooling = (int(shape[-2]), int(shape[-1]))
        model.model.multi_modal_projector = PooledProjector(model.model.multi_modal_projector, self._pooling)
        self.image_processor = self._load_image_processor(source, vision.image_size)
        # An image-only base is compared with its VideoLLM under one prompt: the paper's, not its own template.
        own = self._own_template(source, tokenizer) if values["model_type"] == "llava" else None
        self._template = own or PAPER_TEMPLATE
        return model, tokenizer

    def _load_image_processor(self, source: str, size: int) -> CLIPImageProcessor:
        """The checkpoint's own where it ships one of CLIP's kind, else CLIP's constants at the tower's size."""
        try:
            values, _ = CLIPImageProcessor.get_image_processor_dict(source, revision=self.args.revision)
        except OSError:  # it ships none
            values = {}
        kind = str(values.get("image_processor_type") or values.get("feature_extractor_type") or "")
        if kind.startswith(("CLIP", "LlavaNext")):
            own = CLIPImageProcessor.from_pretrained(source, revision=self.args.revision)
            if own.size.get("shortest_edge"):
                return own
        return CLIPImageProcessor(size={"shortest_edge": size}, crop_size={"height": size, "width": size})

    def _own_template(self, source: str, tokenizer: Any) -> str | None:
        """The checkpoint's chat template; older uploads keep it in a file that only processors read."""
        if tokenizer.chat_template:
            return str(tokenizer.get_chat_template())
        file = cached_file(
            source,
            "chat_template.json",
            revision=self.args.revision,
            _raise_exceptions_for_missing_entries=False,
        )
        return None if file is None else json.loads(Path(file).read_text())["chat_template"]

    def render(self, messages: Messages) -> str:
        prefilled = messages[-1]["role"] == "assistant"
        chat: Any = self.tokenizer if self._pooled else self.processor
        template = self._template if self._pooled else None
        if self._pooled and template is not PAPER_TEMPLATE:
            messages = _video_as_image(messages)
        return str(
            chat.apply_chat_template(
                [dict(message) for message in messages],
                chat_template=template,
                tokenize=False,
                add_generation_prompt=not prefilled,
                continue_final_message=prefilled,
            )
        )

    def encode(self, text: str, frames: Frames | None) -> tuple[list[int], dict[str, Tensor]]:
        if not self._pooled:
            videos = None if frames is None else [torch.from_numpy(frames.pixels).permute(0, 3, 1, 2)]
            out = self.processor(
                text=[text],
                videos=videos,
                do_sample_frames=False,
                add_special_tokens=self.adds_special_tokens(text),
                return_tensors="pt",
            )
            tensors = {name: out[name] for name in ("pixel_values_videos",) if name in out}
            return out["input_ids"][0].tolist(), tensors
        ids = self.tokenize(text)["input_ids"]
        if frames is None:
            return ids, {}
        token = self.tokenizer.convert_tokens_to_ids(self.video_token)
        count = len(frames.indices) * self._pooling[0] * self._pooling[1]
        expanded = [each for one in ids for each in ([token] * count if one == token else [one])]
        pixels = self.image_processor(
            [_shrink(frame, self.image_processor.size["shortest_edge"]) for frame in frames.pixels],
            return_tensors="pt",
        )["pixel_values"]
        return expanded, {"pixel_values": pixels}


def _video_as_image(messages: Messages) -> list[dict[str, Any]]:
    """For templates of image models, which know of no video."""

    def part(content: Any) -> Any:
        return {"type": "image"} if content.get("type") == "video" else content

    return [{**message, "content": [part(content) for content in message["content"]]} for message in messages]


def _shrink(frame: Any, short_edge: int) -> Image.Image:
    """A frame of at most 640 pixels on its long edge, and no less than the tower's size on its short one (bicubic)."""
    image = Image.fromarray(frame)
    long, short = max(image.size), min(image.size)
    scale = max(min(1.0, LONG_EDGE / long), short_edge / short)
    if scale >= 1.0:
        return image
    width, height = (max(1, round(edge * scale)) for edge in image.size)
    return image.resize((width, height), Image.Resampling.BICUBIC)


__all__: Sequence[str] = ["LlavaVidFlow"]
