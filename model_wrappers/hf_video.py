"""`hf_video_flow`: any native video chat model of transformers, by its checkpoint alone; and the names people type."""

from __future__ import annotations

from typing import ClassVar

from transformers import PreTrainedConfig

from lmms_flow.errors import CheckpointError
from lmms_flow.inputs.chat import VideoChat

from .base import FlowModel


class HfVideoFlow(FlowModel):
    """Whatever transformers' automatic classes load, with its processor; frames and times as that one says."""

    own_name: ClassVar[str] = ""  # in lmms-eval, of a class for some types of models alone

    def load(self, source: str) -> VideoChat:
        """The model and its chat. Raises CheckpointError where none is named, or it is of a type for another name."""
        if not source:
            raise CheckpointError(
                "hf_video_flow has no checkpoint of its own: write pretrained=..., such as "
                "pretrained=Qwen/Qwen2.5-VL-7B-Instruct"
            )
        if self.model_types:
            values, _ = PreTrainedConfig.get_config_dict(source, revision=self.args.revision)
            kind = values.get("model_type")
            if kind not in self.model_types:
                runs = " and ".join(self.model_types)
                raise CheckpointError(
                    f"this is a {kind!r} checkpoint; {self.own_name} runs {runs} checkpoints: write hf_video_flow"
                )
        return super().load(source)


class Qwen25VlFlow(HfVideoFlow):
    """Qwen2.5-VL: pairs of frames, positions in three dimensions that know the seconds."""

    own_name = "qwen2_5_vl_flow"
    default_checkpoint = "Qwen/Qwen2.5-VL-7B-Instruct"
    model_types = ("qwen2_5_vl",)


class Qwen3VlFlow(HfVideoFlow):
    """Qwen3-VL and its mixtures of experts: pairs of frames with their time in the prompt."""

    own_name = "qwen3_vl_flow"
    default_checkpoint = "Qwen/Qwen3-VL-8B-Instruct"
    model_types = ("qwen3_vl", "qwen3_vl_moe")


class LlavaOnevisionFlow(HfVideoFlow):
    """LLaVA-OneVision."""

    own_name = "llava_onevision_flow"
    default_checkpoint = "llava-hf/llava-onevision-qwen2-7b-ov-hf"
    model_types = ("llava_onevision",)


class SmolVlmFlow(HfVideoFlow):
    """SmolVLM2: each frame with its time in the prompt."""

    own_name = "smolvlm_flow"
    default_checkpoint = "HuggingFaceTB/SmolVLM2-2.2B-Instruct"
    model_types = ("smolvlm",)
