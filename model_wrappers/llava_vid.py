"""`llava_vid_flow`: the LLaVA kin. The paper's checkpoints, their image-only bases, and LLaVA-NeXT-Video."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers import LlavaConfig, LlavaForConditionalGeneration, PreTrainedConfig

from lmms_flow import assets
from lmms_flow.errors import CheckpointError
from lmms_flow.inputs.chat import VideoChat
from lmms_flow.inputs.image_chat import ImageChat, clip_image_processor, own_template
from lmms_flow.inputs.paper_prompt import paper_template
from lmms_flow.inputs.tokenizer import load_tokenizer
from lmms_flow.runner.weights import load_exactly

from .base import FlowModel

PAPER_TEMPLATE = paper_template(user=" USER: ", assistant=" ASSISTANT:", video="<image>\n")


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


class PooledLlava(ImageChat):
    """LLaVA-NeXT-Video-FT, or an image-only base run through the same pooled path.

    `values` is the checkpoint's config.json; `hub` and `loading` are what `from_pretrained` takes for the tokenizer's
    files and for the model.
    """

    def __init__(
        self, source: str, values: dict[str, Any], hub: dict[str, Any], loading: dict[str, Any]
    ) -> None:
        config = LlavaConfig.from_dict({**values, "model_type": "llava"})
        model = load_exactly(LlavaForConditionalGeneration, source, loading, config)
        tokenizer = load_tokenizer(source, hub)
        vision = config.vision_config
        side = vision.image_size // vision.patch_size
        shape = values.get("pooling_shape") or (0, side // 2, side // 2)
        self.pooled = (int(shape[-2]), int(shape[-1]))
        model.model.multi_modal_projector = PooledProjector(model.model.multi_modal_projector, self.pooled)
        # An image-only base is compared with its VideoLLM under one prompt: the paper's, not its own template.
        own = own_template(source, tokenizer, hub["revision"]) if values["model_type"] == "llava" else None
        super().__init__(
            model,
            tokenizer,
            video_token="<image>",
            image_processor=clip_image_processor(source, vision.image_size, hub["revision"]),
            tokens_per_frame=self.pooled[0] * self.pooled[1],
            template=own or PAPER_TEMPLATE,
            knows_video=own is None,
        )


class LlavaVidFlow(FlowModel):
    """LLaVA-NeXT-Video-FT (the default, the paper's), its image-only base, LLaVA-NeXT-Video and the bundled model."""

    default_checkpoint = "byminji/LLaVA-NeXT-7B-Video-FT"
    model_types = ("llava", "llava_next", "llava_next_video")

    def load(self, source: str) -> VideoChat:
        """The model and its chat, by the type of the checkpoint; `flow-tiny` is the bundled one."""
        if source == "flow-tiny":
            source = str(assets.flow_tiny_dir())
        values, _ = PreTrainedConfig.get_config_dict(source, revision=self.args.revision)
        kind = values.get("model_type")
        if kind == "llava_next_video":
            return super().load(source)
        if kind in self.model_types:
            return PooledLlava(source, values, self.hub_arguments, self.loading_arguments)
        raise CheckpointError(
            f"this is a {kind!r} checkpoint; llava_vid_flow runs llava, llava_next and llava_next_video checkpoints"
        )
