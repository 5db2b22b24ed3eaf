"""VideoLLaMA3's original form (`videollama3_qwen2`), told in the terms of transformers' own VideoLLaMA3."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from torch import Tensor
from transformers import (
    PreTrainedConfig,
    Qwen2Config,
    VideoLlama3Config,
    VideoLlama3ForConditionalGeneration,
    VideoLlama3VisionConfig,
)
from transformers.models.video_llama_3.modeling_video_llama_3 import VideoLlama3CausalLMOutputWithPast

from lmms_flow.engine.layer_call import cache_in, going_on_from, with_cache
from lmms_flow.errors import CheckpointError
from lmms_flow.runner.weights import load_exactly

from .fields import known_fields

MERGED = 2  # patches a side that become one token of a video
ORIGINAL, NATIVE = "videollama3_qwen2", "video_llama_3"
# Patterns of original names and what takes their place.
RENAMED = {
    r"^model\.vision_encoder\.": "model.vision_model.",
    r"^model\.mm_projector\.": "model.projector.",
    r"^model\.embed_tokens\.": "model.language_model.embed_tokens.",
    r"^model\.layers\.": "model.language_model.layers.",
    r"^model\.norm\.": "model.language_model.norm.",
}


class VideoLlama3(VideoLlama3ForConditionalGeneration):  # type: ignore[misc]
    """transformers' VideoLLaMA3, with logits for the positions that are asked for alone.

    The native class computes those of the whole prompt, 150,000 a token. `generate` asks for the last one wherever a
    model knows `logits_to_keep`, and the sparse engine needs to hear that nothing else is read.
    """

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        cache: Any = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        pixel_values_videos: Tensor | None = None,
        video_grid_thw: Tensor | None = None,
        video_merge_sizes: Tensor | None = None,
        logits_to_keep: int | Tensor = 0,
        past_key_values: Any = None,
        **kwargs: Any,
    ) -> VideoLlama3CausalLMOutputWithPast:
        """Logits [batch, kept position, vocabulary]; `logits_to_keep` counts from the end, or indexes.

        The key/value cache goes by either of transformers' names for it, `cache` or `past_key_values`.
        """
        given = past_key_values if cache is None else cache
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            pixel_values_videos=pixel_values_videos,
            video_grid_thw=video_grid_thw,
            video_merge_sizes=video_merge_sizes,
            **going_on_from(self.model, given),
            **{**kwargs, "return_dict": True},
        )
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        return VideoLlama3CausalLMOutputWithPast(
            logits=self.lm_head(outputs.last_hidden_state[:, kept]),
            **with_cache(VideoLlama3CausalLMOutputWithPast, cache_in(outputs)),
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            **_video_of(outputs),
        )


def _video_of(outputs: Any) -> dict[str, Any]:
    """What the vision tower gave, by the name that this version of transformers has for it."""
    known = {field.name for field in dataclasses.fields(VideoLlama3CausalLMOutputWithPast)}
    return {name: getattr(outputs, name) for name in known & {"video_outputs", "video_hidden_states"}}


def load_videollama3(source: str, values: Mapping[str, Any], loading: Mapping[str, Any]) -> VideoLlama3:
    """The model of a repository or folder whose config.json holds `values`, in either form.

    Raises CheckpointError where it is another model's, or the weights don't fit.
    """
    kind = values.get("model_type")
    if kind == NATIVE:
        return load_exactly(VideoLlama3, source, loading)  # type: ignore[no-any-return]
    if kind != ORIGINAL:
        raise CheckpointError(
            f"this is a {kind!r} checkpoint; videollama3_flow runs {ORIGINAL} and {NATIVE} checkpoints"
        )
    return load_exactly(VideoLlama3, source, loading, native_config(values), RENAMED)  # type: ignore[no-any-return]


def is_original(values: Mapping[str, Any]) -> bool:
    """Whether a config.json is of the original form."""
    return values.get("model_type") == ORIGINAL


def native_config(values: Mapping[str, Any]) -> PreTrainedConfig:
    """The configuration of transformers for a `videollama3_qwen2` config.json."""
    projector = values.get("mm_projector_type")
    vision = values.get("vision_encoder_config")
    if projector != "mlp2x_gelu" or not vision:
        what = (
            f"its projector is {projector!r}, not 'mlp2x_gelu'"
            if vision
            else "it has no vision_encoder_config"
        )
        raise CheckpointError(
            f"this VideoLLaMA3 checkpoint can't be converted to transformers' own class: {what}"
        )
    text = known_fields(Qwen2Config, values)
    token = values["image_token_index"]  # one token for pictures and for frames
    return VideoLlama3Config(
        text_config=Qwen2Config(**text).to_dict(),
        vision_config=known_fields(VideoLlama3VisionConfig, vision),
        image_token_id=token,
        video_token_id=token,
        tie_word_embeddings=text.get("tie_word_embeddings", False),
    )
