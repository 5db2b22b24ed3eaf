"""`llava_vid_flow`: the LLaVA kin. The paper's checkpoints, their image-only bases, and LLaVA-NeXT-Video."""

from __future__ import annotations

from transformers import PreTrainedConfig

from lmms_flow import assets
from lmms_flow.flow import FlowError

from .base import FlowModel
from .chat import VideoChat
from .pooled_llava import PooledLlava


class LlavaVidFlow(FlowModel):
    """LLaVA-NeXT-Video-FT (the default, the paper's), its image-only base, LLaVA-NeXT-Video and the bundled model."""

    default_checkpoint = "byminji/LLaVA-NeXT-7B-Video-FT"

    def load(self, source: str) -> VideoChat:
        if source == "flow-tiny":
            source = str(assets.flow_tiny_dir())
        values, _ = PreTrainedConfig.get_config_dict(source, revision=self.args.revision)
        kind = values.get("model_type")
        if kind == "llava_next_video":
            return super().load(source)
        if kind in ("llava", "llava_next"):
            return PooledLlava(source, values, self.hub_arguments, self.loading_arguments)
        raise FlowError(
            f"this is a {kind!r} checkpoint; llava_vid_flow runs llava, llava_next and llava_next_video checkpoints"
        )
