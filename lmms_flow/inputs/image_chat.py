"""A VideoLLM made of an image model: every frame is a picture, and a fixed number of tokens in the prompt."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import transformers
from PIL import Image
from torch import Tensor
from transformers.utils import cached_file

from lmms_flow.errors import SampleError
from lmms_flow.inputs.video import Frames

from .chat import Messages, VideoChat

LONG_EDGE = 640  # of a frame before the vision tower's own resizing, in pixels (the paper's)
MOST_PIXELS = 65_536  # of the long edge after it
# Resizing by Pillow, as in the paper; later transformers resize by torchvision under the plain name.
CLIPPixels: Any = getattr(transformers, "CLIPImageProcessorPil", transformers.CLIPImageProcessor)


class ImageChat(VideoChat):
    """One placeholder of an image, `video_token`, stands for the tokens of all frames.

    `template` is a chat template; with `knows_video` it is written for videos, else for images alone.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        video_token: str,
        image_processor: Any,
        tokens_per_frame: int,
        template: str,
        knows_video: bool,
    ) -> None:
        super().__init__(model, tokenizer, video_token=video_token)
        self.image_processor = image_processor
        self.tokens_per_frame = tokens_per_frame
        self.template = template
        self.knows_video = knows_video

    def render(self, messages: Messages) -> str:
        """The prompt as text; a template that knows no video is given a picture in its place."""
        if not self.knows_video:
            messages = video_as_image(messages)
        return self.apply_template(self.tokenizer, messages, self.template)

    def encode(self, text: str, frames: Frames | None) -> tuple[list[int], dict[str, Tensor]]:
        """Token ids, and pixel values [frame, channel, row, column]; each frame is a picture of its own."""
        ids = self.tokenize(text)["input_ids"]
        if frames is None:
            return ids, {}
        ids = self.expand(ids, len(frames.indices) * self.tokens_per_frame)
        images = [resized(frame, self.image_processor.size["shortest_edge"]) for frame in frames.pixels]
        return ids, {"pixel_values": self.image_processor(images, return_tensors="pt")["pixel_values"]}

    def expand(self, input_ids: Sequence[int], count: int) -> list[int]:
        """The token ids with `count` of the placeholder in the place of one."""
        token = self.tokenizer.convert_tokens_to_ids(self.video_token)
        return [each for one in input_ids for each in ([token] * count if one == token else [one])]


def clip_image_processor(source: str, size: int, revision: str, **constants: Any) -> Any:
    """The checkpoint's own where it ships one of CLIP's kind, else one of `size` pixels with these constants.

    Both resize the short side (bicubic), cut out the centre, and normalise.
    """
    try:
        values, _ = CLIPPixels.get_image_processor_dict(source, revision=revision)
    except OSError:  # it ships none
        values = {}
    kind = str(values.get("image_processor_type") or values.get("feature_extractor_type") or "")
    if kind.startswith(("CLIP", "LlavaNext")):
        own = CLIPPixels.from_pretrained(source, revision=revision)
        if own.size.get("shortest_edge"):
            return own
    return CLIPPixels(size={"shortest_edge": size}, crop_size={"height": size, "width": size}, **constants)


def own_template(source: str, tokenizer: Any, revision: str) -> str | None:
    """The checkpoint's chat template; older uploads keep it in a file that only processors read."""
    if tokenizer.chat_template:
        return str(tokenizer.get_chat_template())
    missing = {"_raise_exceptions_for_missing_entries": False}
    file = cached_file(source, "chat_template.json", revision=revision, **missing)
    return None if file is None else json.loads(Path(file).read_text())["chat_template"]


def video_as_image(messages: Messages) -> list[dict[str, Any]]:
    """For templates of image models, which know of no video."""

    def part(content: Any) -> Any:
        return {"type": "image"} if content.get("type") == "video" else content

    return [{**message, "content": [part(content) for content in message["content"]]} for message in messages]


def resized(frame: Any, floor: int) -> Image.Image:
    """A frame as the paper's processor hands it to the vision tower's own: resized once (bicubic), up or down.

    The short edge becomes that of a frame of at most 640 pixels on its long edge, and at least `floor`, the tower's
    size; 1280 x 720 becomes 640 x 360 where the tower takes 336, and 796 x 448 where it takes 448. Raises SampleError
    where a frame is so narrow that its long edge would not fit into memory.
    """
    image = Image.fromarray(frame)
    size = resized_size(image.size, floor)
    if max(size) > MOST_PIXELS:
        raise SampleError(f"a frame of {image.width} x {image.height} pixels is too narrow for the model")
    return image if size == image.size else image.resize(size, Image.Resampling.BICUBIC)


def resized_size(size: tuple[int, int], floor: int) -> tuple[int, int]:
    """Width and height of that, rounded down as in the paper."""
    long, short = max(size), min(size)
    ratio = long / short
    edge = max(min(short, int(min(LONG_EDGE, long) / ratio)), floor)
    other = int(edge * ratio)
    return (other, edge) if size[0] >= size[1] else (edge, other)
