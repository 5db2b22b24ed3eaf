"""Makers of tiny InternVL checkpoints in the original form (`internvl_chat`), as checkpoints.py for LLaVA's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken
from torch import Tensor
from transformers import InternVLConfig, InternVLForConditionalGeneration

from tests.support.checkpoints import (
    HEADS,
    HIDDEN,
    MLP,
    VISION_HEADS,
    VISION_HIDDEN,
    VISION_LAYERS,
    VISION_MLP,
    Shapes,
    _linear,
    _random_weights,
    _write_json,
    _write_weights,
    llama_tokenizer,
)
from tests.support.checkpoints_videollama3 import (
    CHATML,
    qwen2_config,
    qwen2_shapes,
    qwen_tokenizer,
    write_qwen_tokenizer,
)
from tests.support.models import enliven

PATCH_SIZE, IMAGE_SIZE = 14, 56  # 4 x 4 patches a frame, 2 x 2 tokens after the pixel shuffle
MARKS = ("<img>", "</img>", "<IMG_CONTEXT>")
# What Phi-3's tokenizer ships: it writes a message's content as it is, and knows no pictures.
PHI_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{'<|' + message['role'] + '|>' + '\n' + message['content'] + "
    "'<|end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)

# What the native checkpoints ship.
NATIVE_TEMPLATE = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n'}}{% for content in message['content'] %}"
    "{% if content['type'] == 'image' %}{{ '<IMG_CONTEXT>\n' }}{% elif content['type'] == 'video' %}{{ '<video>\n' }}"
    "{% elif content['type'] == 'text' %}{{ content['text'] }}{% endif %}{% endfor %}{{'<|im_end|>\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{'<|im_start|>assistant\n' }}{% endif %}"
)


def internvl_chat(
    folder: Path,
    *,
    language: str = "phi3",
    tower: str = "300m",
    layers: int = 4,
    shards: int = 1,
    image_size: int = IMAGE_SIZE,
    chat_template: str = "",
    image_processor: bool = True,
    seed: int = 3,
    **config: Any,
) -> dict[str, Tensor]:
    """The layout of Mini-InternVL-4B-Video-FT and its base, scaled down.

    `tower` is "300m" (LayerNorm, biases) or "6b" (RMSNorm, normalised queries and keys). Further names go into
    config.json. Returns the weights by the names under which they were written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if language == "qwen2":
        vocabulary = write_qwen_tokenizer(folder, *MARKS, chat_template=chat_template or CHATML)
        text, shapes = qwen2_config(layers, vocabulary), qwen2_shapes(layers, vocabulary)
    else:
        vocabulary = _write_phi_tokenizer(folder, chat_template)
        text, shapes = _phi3_config(layers, vocabulary), _phi3_shapes(layers, vocabulary)
    values = {
        "model_type": "internvl_chat",
        "architectures": ["InternVLChatModel"],
        "auto_map": {
            "AutoConfig": "configuration_internvl_chat.InternVLChatConfig",
            "AutoModel": "modeling_internvl_chat.InternVLChatModel",
        },
        "torch_dtype": "float32",
        "downsample_ratio": 0.5,
        "force_image_size": image_size,
        "select_layer": -1,
        "ps_version": "v2",
        "template": "phi3-chat",
        "use_thumbnail": True,
        "dynamic_image_size": True,
        "llm_config": {**text, "attn_implementation": "flash_attention_2", "torch_dtype": "bfloat16"},
        "vision_config": _vision_config(tower, image_size),
        **config,
    }
    _write_json(folder / "config.json", values)
    _write_json(folder / "generation_config.json", {"_from_model_config": True})
    if image_processor:
        _write_json(folder / "preprocessor_config.json", _image_processor(image_size))
    shapes = {f"language_model.{name}": shape for name, shape in shapes.items()}
    shapes |= _vit_shapes(tower, image_size) | _projector_shapes()
    weights = _random_weights(shapes, seed)
    _write_weights(folder, weights, shards, torch.float32)
    return weights


def _write_phi_tokenizer(folder: Path, chat_template: str) -> int:
    """Llama's pieces and Phi-3's marks, which swallow the white space behind them. Returns the vocabulary's size."""
    tokenizer = llama_tokenizer("<|endoftext|>")
    for name in ("<|assistant|>", "<|system|>", "<|end|>", "<|user|>"):
        tokenizer.add_special_tokens([AddedToken(name, rstrip=True, normalized=False, special=True)])
    tokenizer.add_special_tokens([AddedToken(name, normalized=False, special=True) for name in MARKS])
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "LlamaTokenizer",
        "add_bos_token": True,
        "add_eos_token": False,
        "bos_token": "<s>",
        "eos_token": "<|endoftext|>",
        "unk_token": "<unk>",
        "pad_token": "<|endoftext|>",
        "legacy": True,
        "model_max_length": 4096,
    }
    _write_json(
        folder / "tokenizer_config.json",
        config | ({"chat_template": chat_template} if chat_template else {}),
    )
    return int(tokenizer.get_vocab_size())


def _phi3_config(layers: int, vocabulary: int) -> dict[str, Any]:
    """Phi-3-mini-128k's: its rotary angles are scaled, and its window is wider than its context."""
    factors = HIDDEN // HEADS // 2
    return {
        "model_type": "phi3",
        "architectures": ["Phi3ForCausalLM"],
        "auto_map": {"AutoConfig": "configuration_phi3.Phi3Config"},
        "hidden_size": HIDDEN,
        "intermediate_size": MLP,
        "num_hidden_layers": layers,
        "num_attention_heads": HEADS,
        "num_key_value_heads": HEADS,
        "vocab_size": vocabulary,
        "max_position_embeddings": 131072,
        "original_max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "rope_scaling": {
            "type": "su",
            "short_factor": [1.0 + 0.05 * place for place in range(factors)],
            "long_factor": [2.0 + place for place in range(factors)],
        },
        "sliding_window": 262144,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 2,
        "tie_word_embeddings": False,
    }


def _phi3_shapes(layers: int, vocabulary: int) -> Shapes:
    shapes: Shapes = {
        "model.embed_tokens.weight": (vocabulary, HIDDEN),
        "model.norm.weight": (HIDDEN,),
        "lm_head.weight": (vocabulary, HIDDEN),
    }
    for layer in range(layers):
        prefix = f"model.layers.{layer}."
        shapes |= {
            f"{prefix}self_attn.qkv_proj.weight": (3 * HIDDEN, HIDDEN),
            f"{prefix}self_attn.o_proj.weight": (HIDDEN, HIDDEN),
            f"{prefix}mlp.gate_up_proj.weight": (2 * MLP, HIDDEN),
            f"{prefix}mlp.down_proj.weight": (HIDDEN, MLP),
            f"{prefix}input_layernorm.weight": (HIDDEN,),
            f"{prefix}post_attention_layernorm.weight": (HIDDEN,),
        }
    return shapes


def _vision_config(tower: str, image_size: int) -> dict[str, Any]:
    """InternViT-300M's; what is left out of the 6B's are the defaults of their own code."""
    config = {
        "model_type": "intern_vit_6b",
        "architectures": ["InternVisionModel"],
        "hidden_size": VISION_HIDDEN,
        "intermediate_size": VISION_MLP,
        "num_hidden_layers": VISION_LAYERS,
        "num_attention_heads": VISION_HEADS,
        "image_size": image_size,
        "patch_size": PATCH_SIZE,
        "use_flash_attn": True,
        "drop_path_rate": 0.1,
    }
    small = {"norm_type": "layer_norm", "qk_normalization": False, "qkv_bias": True, "layer_norm_eps": 1e-6}
    return config | (small if tower == "300m" else {})


def _vit_shapes(tower: str, image_size: int) -> Shapes:
    width, prefix = VISION_HIDDEN, "vision_model."
    shapes: Shapes = {
        f"{prefix}embeddings.class_embedding": (1, 1, width),
        f"{prefix}embeddings.position_embedding": (1, (image_size // PATCH_SIZE) ** 2 + 1, width),
        f"{prefix}embeddings.patch_embedding.weight": (width, 3, PATCH_SIZE, PATCH_SIZE),
        f"{prefix}embeddings.patch_embedding.bias": (width,),
    }
    for layer in range(VISION_LAYERS):
        block = f"{prefix}encoder.layers.{layer}."
        shapes |= _linear(f"{block}attn.proj", width, width)
        shapes |= _linear(f"{block}mlp.fc1", width, VISION_MLP) | _linear(
            f"{block}mlp.fc2", VISION_MLP, width
        )
        shapes |= {f"{block}ls1": (width,), f"{block}ls2": (width,)}
        shapes |= {f"{block}norm1.weight": (width,), f"{block}norm2.weight": (width,)}
        shapes[f"{block}attn.qkv.weight"] = (3 * width, width)
        if tower == "300m":
            shapes |= {f"{block}norm1.bias": (width,), f"{block}norm2.bias": (width,)}
            shapes[f"{block}attn.qkv.bias"] = (3 * width,)
        else:
            shapes |= {f"{block}attn.q_norm.weight": (width,), f"{block}attn.k_norm.weight": (width,)}
    return shapes


def _projector_shapes() -> Shapes:
    shuffled = 4 * VISION_HIDDEN
    norm: Shapes = {"mlp1.0.weight": (shuffled,), "mlp1.0.bias": (shuffled,)}
    return norm | _linear("mlp1.1", shuffled, HIDDEN) | _linear("mlp1.3", HIDDEN, HIDDEN)


def _image_processor(image_size: int) -> dict[str, Any]:
    return {
        "feature_extractor_type": "CLIPFeatureExtractor",
        "size": image_size,
        "crop_size": image_size,
        "do_center_crop": True,
        "do_normalize": True,
        "do_resize": True,
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
        "resample": 3,
    }


def native_internvl(folder: Path, *, layers: int = 4, seed: int = 5) -> None:
    """A checkpoint as transformers writes it (OpenGVLab/InternVL3-*-hf), with its processor's files."""
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = write_qwen_tokenizer(folder, *MARKS, "<video>")
    (folder / "chat_template.jinja").write_text(NATIVE_TEMPLATE)
    file = folder / "tokenizer_config.json"
    names = ("start_image_token", "end_image_token", "context_image_token")
    extra = {**dict(zip(names, MARKS, strict=True)), "video_token": "<video>"}
    _write_json(file, json.loads(file.read_text()) | {"extra_special_tokens": extra})
    vision = _vision_config("300m", IMAGE_SIZE)
    config = InternVLConfig(
        text_config={**qwen2_config(layers, vocabulary)},
        vision_config={
            "hidden_size": VISION_HIDDEN,
            "intermediate_size": VISION_MLP,
            "num_hidden_layers": VISION_LAYERS,
            "num_attention_heads": VISION_HEADS,
            "attention_bias": True,
            "image_size": vision["image_size"],
            "patch_size": PATCH_SIZE,
        },
        image_token_id=qwen_tokenizer(*MARKS).token_to_id("<IMG_CONTEXT>"),
        image_seq_length=4,
        tie_word_embeddings=False,
    )
    torch.manual_seed(seed)
    model = InternVLForConditionalGeneration(config)
    enliven(model, seed)
    model.save_pretrained(folder)
    pixels = {
        "size": {"height": IMAGE_SIZE, "width": IMAGE_SIZE},
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
        "processor_class": "InternVLProcessor",
    }
    _write_json(
        folder / "preprocessor_config.json", {**pixels, "image_processor_type": "GotOcr2ImageProcessor"}
    )
    _write_json(
        folder / "video_preprocessor_config.json",
        {**pixels, "video_processor_type": "InternVLVideoProcessor"},
    )
    _write_json(
        folder / "processor_config.json", {"processor_class": "InternVLProcessor", "image_seq_length": 4}
    )
