"""Tiny models of all decoder families: transformers' own configurations with small sizes."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
)

LAYERS, VOCABULARY, MOST_WEIGHTS = 4, 160, 100_000_000
TEXT: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 512,
    "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 32,
    "shared_intermediate_size": 32,
    "expert_ffn_hidden_size": 32,
    "ffn_hidden_size": 96,
    "ffn_dim": 96,
    "d_model": 64,
    "num_local_experts": 4,
    "num_experts": 4,
    "n_routed_experts": 4,
    "moe_num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_k": 2,
    "n_shared_experts": 1,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "kv_lora_rank": 16,
    "q_lora_rank": 24,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 16,
    "qk_head_dim": 24,
    "v_head_dim": 16,
    "hidden_size_per_layer_input": 16,
    "vocab_size_per_layer_input": VOCABULARY,
    "sliding_window": 16,
    "global_head_dim": 16,
    "num_kv_shared_layers": 2,
    "encoder_layers": LAYERS,
    "decoder_layers": LAYERS,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 96,
    "decoder_ffn_dim": 96,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
VISION: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "depth": 2,
    "num_heads": 2,
    "num_attention_heads": 2,
    "embed_dim": 32,
    "image_size": 16,
    "patch_size": 4,
    "out_hidden_size": 64,
    "projection_dim": 64,
    "text_hidden_size": 64,
}
# What the usual names don't say: kinds of layers in turns, as the released models have them, and sizes of odd names.
ODD: dict[str, dict[str, Any]] = {
    "codegen": {"rotary_dim": 8},
    "gptj": {"rotary_dim": 8},
    "gpt_neo": {"num_layers": LAYERS, "attention_types": [[["global", "local"], 2]]},
    "mamba2": {"num_heads": 8, "head_dim": 16},
    "lfm2": {"layer_types": ["conv", "full_attention"] * 2},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 2},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "bamba": {"attn_layer_indices": [1, 3]},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"] * 2},
    "gemma3n_text": {"layer_types": ["sliding_attention", "full_attention"] * 2},
    "gemma4_text": {"layer_types": ["sliding_attention", "full_attention"] * 2},
    "gemma4_unified_text": {"layer_types": ["sliding_attention", "full_attention"] * 2},
    "prophetnet": {"num_encoder_layers": LAYERS, "num_decoder_layers": LAYERS},
    "xlnet": {"d_model": 64, "n_head": 4, "n_layer": LAYERS, "d_inner": 96},
    "step3p5": {"sliding_window": 16},
    "reformer": {"is_decoder": True},
    "emu3": {"vocabulary_map": {"<image>": 5}},
    "qwen2_5_omni_thinker": {"vision_start_token_id": 7},
    "qwen3_omni_moe_thinker": {"vision_start_token_id": 7},
    "chameleon": {"vocabulary_map": {"<image>": 5}},
}
# Rotary embeddings of times, heights and widths, whose sections some configurations leave to the model.
MROPE = {
    "ernie4_5_vl_moe_text", "glm46v_text", "glm4v_text", "glm4v_moe_text", "glm_ocr_text", "glmga_text",
    "paddleocr_vl_text", "qwen2_vl_text", "qwen2_5_vl_text", "qwen2_5_omni_text",
}  # fmt: skip
NOT_SET = {
    "prophetnet": {"num_hidden_layers"},
    "xlnet": {"hidden_size", "num_attention_heads", "num_hidden_layers"},
}


def families() -> list[tuple[str, bool]]:
    """(model type, whether it is a video or image class) of all that transformers lists."""
    text = [(name, False) for name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES]
    return sorted(text) + sorted((name, True) for name in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES)


def build(name: str, sees: bool, attention: str) -> nn.Module:
    """A model of a family with random weights, fp32, in evaluation mode. Raises whatever keeps it from being built."""
    config = tiny_config(name)
    auto = AutoModelForImageTextToText if sees else AutoModelForCausalLM
    with torch.device("meta"):
        count = sum(p.numel() for p in auto.from_config(config, attn_implementation=attention).parameters())
    if count > MOST_WEIGHTS:
        raise ValueError(f"its configuration can't be made small by its usual names: {count:,} weights")
    torch.manual_seed(0)
    model = auto.from_config(config, attn_implementation=attention, dtype=torch.float32)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 1.5 / parameter.shape[-1] ** 0.5, generator=generator)
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = None, 0
    return model.eval()  # type: ignore[no-any-return]


def tiny_config(name: str) -> Any:
    """The family's configuration with small sizes wherever it has them."""
    return _shrunk(CONFIG_MAPPING[name], TEXT)


def _shrunk(kind: Any, sizes: dict[str, Any]) -> Any:
    plain = kind()
    parts = {}
    for part in getattr(kind, "sub_configs", {}):
        inner = getattr(plain, part, None)
        if inner is not None:
            parts[part] = _shrunk(type(inner), TEXT if "text" in part or "llm" in part else VISION)
    odd, unset = ODD.get(plain.model_type, {}), NOT_SET.get(plain.model_type, set())
    fields = {name: value for name, value in sizes.items() if name not in unset and _has(plain, name)}
    if getattr(plain, "sliding_window", None) is None:  # the released models have none
        fields.pop("sliding_window", None)
    if "qk_rope_head_dim" in fields and "head_dim" in fields:  # latent attention: the rotary part alone
        fields["head_dim"] = fields["qk_rope_head_dim"]
        fields["num_key_value_heads"] = fields["num_attention_heads"]
    fields |= _sections(plain, fields) | odd
    try:
        return kind(**fields, **parts)
    except Exception:  # some families check one number against another: leave out what only some have
        few = {name: fields[name] for name in list(sizes)[:6] if name in fields}
        return kind(**few, **odd, **parts)


def _has(config: Any, name: str) -> bool:
    """Whether a configuration knows a size; one that differs from layer to layer can be set, and not be read."""
    try:
        return hasattr(config, name)
    except Exception:
        return True


def _sections(plain: Any, fields: dict[str, Any]) -> dict[str, Any]:
    """The sections of the small head."""
    rope = getattr(plain, "rope_parameters", None) or {"rope_type": "default", "rope_theta": 1e4}
    if "mrope_section" not in rope and plain.model_type not in MROPE:
        return {}
    width = fields.get("head_dim") or fields["hidden_size"] // fields["num_attention_heads"]
    half = int(width * rope.get("partial_rotary_factor", 1.0)) // 2
    third = half // 3
    return {"rope_parameters": rope | {"mrope_section": [half - 2 * third, third, third]}}
