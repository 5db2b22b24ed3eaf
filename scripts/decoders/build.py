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

LAYERS, VOCABULARY, MOST_WEIGHTS = 4, 160, 20_000_000
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
    fields = {name: value for name, value in sizes.items() if hasattr(plain, name)}
    if "qk_rope_head_dim" in fields and "head_dim" in fields:  # latent attention: the rotary part alone
        fields["head_dim"] = fields["qk_rope_head_dim"]
        fields["num_key_value_heads"] = fields["num_attention_heads"]
    try:
        return kind(**fields, **parts)
    except Exception:  # some families check one number against another: leave out what only some have
        few = {name: fields[name] for name in list(sizes)[:6] if name in fields}
        return kind(**few, **parts)
