"""InternVL's original form (model type `internvl_chat`), told in the terms of transformers' own InternVL."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    InternVLConfig,
    InternVLForConditionalGeneration,
    LlamaConfig,
    Phi3Config,
    PreTrainedConfig,
    Qwen2Config,
)
from transformers.conversion_mapping import register_checkpoint_conversion_mapping
from transformers.core_model_loading import Chunk, WeightConverter

from lmms_flow.errors import CheckpointError
from lmms_flow.runner.weights import load_exactly

from .fields import known_fields

LANGUAGE_MODELS: dict[str, type[PreTrainedConfig]] = {
    "Phi3ForCausalLM": Phi3Config,
    "LlamaForCausalLM": LlamaConfig,
    "Qwen2ForCausalLM": Qwen2Config,
}
# What a configuration leaves out is InternViT-6B's: the defaults of its own code.
VISION_DEFAULTS = {
    "hidden_size": 3200,
    "num_hidden_layers": 48,
    "num_attention_heads": 25,
    "intermediate_size": 12800,
    "qk_normalization": True,
    "qkv_bias": False,
    "norm_type": "rms_norm",
    "image_size": 224,
    "patch_size": 14,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-6,
}
VISION_FIELDS = {"qk_normalization": "use_qk_norm", "qkv_bias": "attention_bias"}
# Patterns of original names and what takes their place; the fused query, key and value are taken apart below.
RENAMED = {
    r"^vision_model\.": "model.vision_tower.",
    r"\.embeddings\.class_embedding$": ".embeddings.cls_token",
    r"\.embeddings\.position_embedding$": ".embeddings.position_embeddings",
    r"\.embeddings\.patch_embedding\.": ".embeddings.patch_embeddings.projection.",
    r"\.encoder\.layers\.": ".encoder.layer.",
    r"\.attn\.proj\.": ".attention.projection_layer.",
    r"\.attn\.q_norm\.": ".attention.q_norm.",
    r"\.attn\.k_norm\.": ".attention.k_norm.",
    r"\.norm1\.": ".layernorm_before.",
    r"\.norm2\.": ".layernorm_after.",
    r"\.ls1$": ".lambda_1",
    r"\.ls2$": ".lambda_2",
    r"^mlp1\.0\.": "model.multi_modal_projector.layer_norm.",
    r"^mlp1\.1\.": "model.multi_modal_projector.linear_1.",
    r"^mlp1\.3\.": "model.multi_modal_projector.linear_2.",
    r"^language_model\.lm_head\.": "lm_head.",
    r"^language_model\.model\.": "model.language_model.",
}


class ConvertedInternVL(InternVLForConditionalGeneration):  # type: ignore[misc]
    """transformers' InternVL, as a class of its own to register what happens to its fused weights."""


register_checkpoint_conversion_mapping(
    ConvertedInternVL.__name__,
    [
        WeightConverter(
            source_patterns=r"\.attn\.qkv\.",
            target_patterns=[f".attention.{part}_proj." for part in "qkv"],
            operations=[Chunk(dim=0)],
        )
    ],
    overwrite=True,
)


class Transposed(nn.Module):
    """A projector whose output runs down the columns of a frame, not along its rows.

    Pixel shuffle `v1` of its own code does so: it never swaps height and width back.
    """

    def __init__(self, projector: nn.Module) -> None:
        super().__init__()
        self.projector = projector

    def forward(self, features: Tensor) -> Tensor:
        """[frame, token, width] to [frame, token, hidden]."""
        projected: Tensor = self.projector(features)
        count = projected.shape[1]
        side = int(count**0.5)
        return projected[:, torch.arange(count).view(side, side).T.flatten()]


def load_original(
    source: str, values: Mapping[str, Any], image_token: int, loading: Mapping[str, Any]
) -> ConvertedInternVL:
    """The model of a repository or folder whose config.json holds `values`.

    Raises CheckpointError where the language model has no native class, or the weights don't fit.
    """
    config = native_config(values, image_token)
    model = load_exactly(ConvertedInternVL, source, loading, config, RENAMED)
    if values.get("ps_version", "v1") == "v1":
        model.model.multi_modal_projector = Transposed(model.model.multi_modal_projector)
    return model  # type: ignore[no-any-return]


def native_config(values: Mapping[str, Any], image_token: int) -> InternVLConfig:
    """The configuration of transformers for an `internvl_chat` config.json."""
    text = _text_config(values["llm_config"])
    vision = {**VISION_DEFAULTS, **values["vision_config"]}
    names = (*VISION_DEFAULTS, "num_channels")
    return InternVLConfig(
        vision_config={VISION_FIELDS.get(name, name): vision[name] for name in names if name in vision},
        text_config=text,
        image_token_id=image_token,
        image_seq_length=tokens_per_frame(values),
        downsample_ratio=values.get("downsample_ratio", 0.5),
        vision_feature_layer=values.get("select_layer", -1),
        tie_word_embeddings=text.tie_word_embeddings,
    )


def image_size(values: Mapping[str, Any]) -> int:
    """The side of a frame in pixels."""
    return int(values.get("force_image_size") or {**VISION_DEFAULTS, **values["vision_config"]}["image_size"])


def tokens_per_frame(values: Mapping[str, Any]) -> int:
    """448 pixels are 32 x 32 patches, and 256 tokens after the pixel shuffle by 0.5."""
    patch = {**VISION_DEFAULTS, **values["vision_config"]}["patch_size"]
    return int((image_size(values) // patch * values.get("downsample_ratio", 0.5)) ** 2)


def _text_config(values: Mapping[str, Any]) -> PreTrainedConfig:
    kind = (values.get("architectures") or ["none"])[0]
    if kind not in LANGUAGE_MODELS:
        raise CheckpointError(
            f"the checkpoint's language model is {kind}, for which transformers has no class of its own that fits; "
            f"{', '.join(LANGUAGE_MODELS)} run here, others as a native `internvl` checkpoint (its name ends in -hf)"
        )
    given = known_fields(LANGUAGE_MODELS[kind], values)
    window = given.get("sliding_window")
    if window and window >= given.get("max_position_embeddings", 0):
        given["sliding_window"] = None  # wider than any context: it never hides a key
    scaling = given.get("rope_scaling")
    if scaling and scaling.get("type") == "su":  # what Phi-3's first configurations call it
        given["rope_scaling"] = {**scaling, "type": "longrope"}
    return LANGUAGE_MODELS[kind](**given)
