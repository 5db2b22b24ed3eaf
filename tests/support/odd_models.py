"""Tiny text models of any family by the name of its configuration, with a layout of 27 tokens and prompts for it."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from torch import Tensor

from lmms_flow.engine import decoder_layers, find_decoder, keep_masks
from lmms_flow.flow import Layout, prompt_layout
from tests.support.models import enliven

LAYERS = 4
LAYOUT: Layout = prompt_layout(system=3, frames=3, tokens_per_frame=4, gap=2, question=7, tail=2)
LENGTH = LAYOUT.num_tokens
SIZES: dict[str, Any] = {
    "vocab_size": 160,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 512,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
LATENT: dict[str, Any] = {
    "kv_lora_rank": 16, "q_lora_rank": 24, "qk_rope_head_dim": 8, "qk_nope_head_dim": 16, "v_head_dim": 16,
    "num_key_value_heads": 4, "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32,
    "n_shared_experts": 1, "n_group": 1, "topk_group": 1, "head_dim": 8,
}  # fmt: skip
HYBRID = {
    "layer_types": ["attention", "mamba"] * 2, "mamba_n_heads": 8, "mamba_d_head": 16, "mamba_expand": 2,
    "num_local_experts": 4, "num_experts_per_tok": 2, "shared_intermediate_size": 32,
}  # fmt: skip
MAMBA = {
    "mamba_d_ssm": 64, "mamba_n_heads": 4, "mamba_d_head": 16, "mamba_n_groups": 1, "mamba_d_state": 8,
    "mamba_expand": 1,
}  # fmt: skip


def text_model(kind: str = "Llama", attn: str = "sdpa", **sizes: Any) -> Any:
    """A causal language model `kind`ForCausalLM with random weights."""
    config = getattr(transformers, f"{kind}Config")(**(SIZES | sizes))
    return lively(getattr(transformers, f"{kind}ForCausalLM")._from_config(config, attn_implementation=attn))


def lively(model: Any) -> Any:
    enliven(model)
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = None, 0
    return model.eval()


def tokens(length: int = LENGTH, seed: int = 1, batch: int = 1) -> Tensor:
    return torch.randint(20, 150, (batch, length), generator=torch.Generator().manual_seed(seed))


def prompt(seed: int = 1, video: int | None = None) -> dict[str, Tensor]:
    """A prompt; `video` draws other tokens for the video and leaves the rest as it is."""
    ids = tokens(seed=seed)
    if video is not None:
        span = LAYOUT.groups["video"][0]
        ids[0, span.start : span.stop] = tokens(len(span), seed=video)[0]
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


@torch.no_grad()
def last(model: Any, inputs: dict[str, Any] | None = None, **arguments: Any) -> Tensor:
    """The last position's logits, [vocabulary]."""
    logits: Tensor = model(**(inputs or prompt()), **({"logits_to_keep": 1} | arguments)).logits[0, -1]
    return logits


@torch.no_grad()
def by_hand(model: Any, flow: str, inputs: dict[str, Any] | None = None, layout: Layout = LAYOUT) -> Tensor:
    """The last logits with the reference masks on every layer, by hooks that know nothing of the engine; no cache.

    Tokens behind the prompt take the cuts of its last token.
    """
    inputs = inputs or prompt()
    num_tokens = inputs["input_ids"].shape[1]
    masks = keep_masks(flow, layout, LAYERS)
    whole = torch.ones(LAYERS, num_tokens, num_tokens, dtype=torch.bool).tril()
    whole[:, : layout.num_tokens, : layout.num_tokens] = masks
    whole[:, layout.num_tokens :, : layout.num_tokens] = masks[:, -1:]

    def hook(keep: Tensor) -> Any:
        def before(layer: Any, args: Any, kwargs: Any) -> Any:
            own = kwargs["attention_mask"]
            if own is None:
                return args, kwargs | {"attention_mask": keep[None, None]}
            mask = (
                own & keep if own.dtype == torch.bool else own.masked_fill(~keep, torch.finfo(own.dtype).min)
            )
            return args, kwargs | {"attention_mask": mask}

        return before

    layers = decoder_layers(find_decoder(model))
    handles = [
        layer.register_forward_pre_hook(hook(keep), with_kwargs=True)
        for layer, keep in zip(layers, whole, strict=True)
    ]
    try:
        return last(model, inputs, use_cache=False)
    finally:
        for handle in handles:
            handle.remove()


def off(one: Tensor, other: Tensor) -> float:
    """The largest difference, relative to the largest magnitude."""
    return float((one.float() - other.float()).abs().max() / other.float().abs().max())
