"""The paper's LLaVA: an image model over the frames of a video, its features pooled after the projector."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor, nn
from transformers import AutoTokenizer, CLIPImageProcessor, LlavaConfig, LlavaForConditionalGeneration
from transformers.utils import cached_file

from lmms_flow.harness.video import Frames

from .chat import Messages, VideoChat

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


class PooledLlava(VideoChat):
    """LLaVA-NeXT-Video-FT, or an image-only base run through the same pooled path.

    `values` is the checkpoint's config.json; `hub` and `loading` are what `from_pretrained` takes for the tokenizer's
    files and for the model.
    """

    def __init__(
        self, source: str, values: dict[str, Any], hub: dict[str, Any], loading: dict[str, Any]
    ) -> None:
        config = LlavaConfig.from_dict({**values, "model_type": "llava"})
        model = LlavaForConditionalGeneration.from_pretrained(source, config=config, **loading)
        tokenizer = AutoTokenizer.from_pretrained(source, **hub)
        super().__init__(model, tokenizer, video_token="<image>")
        vision = config.vision_config
        side = vision.image_size // vision.patch_size
        shape = values.get("pooling_shape") or (0, side // 2, side // 2)
        self.pooled = (int(shape[-2]), int(shape[-1]))
        model.model.multi_modal_projector = PooledProjector(model.model.multi_modal_projector, self.pooled)
        self.image_processor = _image_processor(source, vision.image_size, hub["revision"])
        # An image-only base is compared with its VideoLLM under one prompt: the paper's, not its own template.
        own = _own_template(source, tokenizer, hub["revision"]) if values["model_type"] == "llava" else None
        self.template = own or PAPER_TEMPLATE

    def render(self, messages: Messages) -> str:
        if self.template is not PAPER_TEMPLATE:
            messages = _video_as_image(messages)
        return self.apply_template(self.tokenizer, messages, self.template)

    def encode(self, text: str, frames: Frames | None) -> tuple[list[int], dict[str, Tensor]]:
        ids = self.tokenize(text)["input_ids"]
        if frames is None:
            return ids, {}
        token = self.tokenizer.convert_tokens_to_ids(self.video_token)
        count = len(frames.indices) * self.pooled[0] * self.pooled[1]
        expanded = [each for one in ids for each in ([token] * count if one == token else [one])]
        short_edge = self.image_processor.size["shortest_edge"]
        images = [_shrink(frame, short_edge) for frame in frames.pixels]
        return expanded, {"pixel_values": self.image_processor(images, return_tensors="pt")["pixel_values"]}


def _image_processor(source: str, size: int, revision: str) -> CLIPImageProcessor:
    """The checkpoint's own where it ships one of CLIP's kind, else CLIP's constants at the tower's size."""
    try:
        values, _ = CLIPImageProcessor.get_image_processor_dict(source, revision=revision)
    except OSError:  # it ships none
        values = {}
    kind = str(values.get("image_processor_type") or values.get("feature_extractor_type") or "")
    if kind.startswith(("CLIP", "LlavaNext")):
        own = CLIPImageProcessor.from_pretrained(source, revision=revision)
        if own.size.get("shortest_edge"):
            return own
    return CLIPImageProcessor(size={"shortest_edge": size}, crop_size={"height": size, "width": size})


def _own_template(source: str, tokenizer: Any, revision: str) -> str | None:
    """The checkpoint's chat template; older uploads keep it in a file that only processors read."""
    if tokenizer.chat_template:
        return str(tokenizer.get_chat_template())
    missing = {"_raise_exceptions_for_missing_entries": False}
    file = cached_file(source, "chat_template.json", revision=revision, **missing)
    return None if file is None else json.loads(Path(file).read_text())["chat_template"]


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
