"""Makers of tiny VideoLLaMA3 checkpoints in the original form (`videollama3_qwen2`), and Qwen's tokenizer."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)
from torch import Tensor

from tests.support.checkpoints import CORPUS, Shapes, _linear, _random_weights, _write_json, _write_weights

HIDDEN, HEADS, KEY_HEADS, MLP = 64, 4, 2, 96  # of the language model
VISION_HIDDEN, VISION_HEADS, VISION_MLP, VISION_LAYERS, PATCH_SIZE = 32, 2, 64, 3, 14
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
CHATML = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# How Qwen2 cuts a text before it looks for merges: "," and the word behind it stay together, a line break is apart.
QWEN_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def videollama3(
    folder: Path, *, layers: int = 4, shards: int = 1, tied: bool = False, seed: int = 4, **config: Any
) -> dict[str, Tensor]:
    """The layout of VideoLLaMA3-7B, scaled down. Further names go into config.json.

    Returns the weights by the names under which they were written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = write_qwen_tokenizer(folder, "<image>", "<|stream_start|>", "<|stream_end|>")
    values = {
        **qwen2_config(layers, vocabulary),
        "model_type": "videollama3_qwen2",
        "architectures": ["Videollama3Qwen2ForCausalLM"],
        "auto_map": {
            "AutoConfig": "configuration_videollama3.Videollama3Qwen2Config",
            "AutoModelForCausalLM": "modeling_videollama3.Videollama3Qwen2ForCausalLM",
        },
        "image_token_index": qwen_tokenizer("<image>").token_to_id("<image>"),
        "mm_projector_type": "mlp2x_gelu",
        "tie_word_embeddings": tied,
        "use_token_compression": True,
        "vision_encoder": None,
        "vision_encoder_config": {
            "model_type": "videollama3_vision_encoder",
            "hidden_size": VISION_HIDDEN,
            "intermediate_size": VISION_MLP,
            "num_attention_heads": VISION_HEADS,
            "num_hidden_layers": VISION_LAYERS,
            "patch_size": PATCH_SIZE,
            "torch_dtype": "bfloat16",
        },
        **config,
    }
    _write_json(folder / "config.json", values)
    _write_json(folder / "preprocessor_config.json", _image_processor())
    _write_json(
        folder / "processor_config.json",
        {
            "auto_map": {"AutoProcessor": "processing_videollama3.Videollama3Qwen2Processor"},
            "fps": 1,
            "image_merge_size": 1,
            "max_frames": 180,
            "processor_class": "Videollama3Qwen2Processor",
            "video_merge_size": 2,
        },
    )
    ends = [qwen_tokenizer().token_to_id(name) for name in ("<|im_end|>", "<|endoftext|>")]
    sampling = {"do_sample": True, "temperature": 0.7, "top_p": 0.8, "top_k": 20, "repetition_penalty": 1.05}
    _write_json(folder / "generation_config.json", {"eos_token_id": ends, **sampling})
    shapes = qwen2_shapes(layers, vocabulary, tied) | _encoder_shapes()
    weights = _random_weights(shapes, seed)
    _write_weights(folder, weights, shards, torch.float32)
    return weights


# Qwen2


@functools.cache
def _qwen_merges() -> tuple[dict[str, int], list[tuple[str, str]]]:
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = _qwen_words()
    trainer = trainers.BpeTrainer(
        vocab_size=600, show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    learner.train_from_iterator(CORPUS.split("\n"), trainer)
    learned = json.loads(learner.to_str())["model"]
    return learned["vocab"], [tuple(merge) for merge in learned["merges"]]


def _qwen_words() -> Any:
    split = pre_tokenizers.Split(Regex(QWEN_WORDS), behavior="isolated")
    return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def qwen_tokenizer(*special: str) -> Tokenizer:
    """A byte-level BPE tokenizer as Qwen2's, without a beginning-of-sequence token."""
    vocabulary, merges = _qwen_merges()
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = _qwen_words()
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(
        [AddedToken(name, normalized=False, special=True) for name in (*SPECIAL, *special)]
    )
    return tokenizer


def write_qwen_tokenizer(folder: Path, *special: str, chat_template: str = CHATML) -> int:
    """tokenizer.json and tokenizer_config.json, as a Qwen2-based checkpoint has them. Returns the vocabulary's size."""
    tokenizer = qwen_tokenizer(*special)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "Qwen2Tokenizer",
        "bos_token": None,
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "unk_token": None,
        "errors": "replace",
        "model_max_length": 32768,
        "chat_template": chat_template,
    }
    _write_json(folder / "tokenizer_config.json", config)
    return int(tokenizer.get_vocab_size())


def qwen2_config(layers: int, vocabulary: int) -> dict[str, Any]:
    return {
        "model_type": "qwen2",
        "architectures": ["Qwen2ForCausalLM"],
        "hidden_size": HIDDEN,
        "intermediate_size": MLP,
        "num_hidden_layers": layers,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KEY_HEADS,
        "vocab_size": vocabulary,
        "max_position_embeddings": 32768,
        "max_window_layers": layers,
        "use_sliding_window": False,
        "sliding_window": None,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0,
        "rope_scaling": None,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
    }


def qwen2_shapes(layers: int, vocabulary: int, tied: bool = False) -> Shapes:
    shapes: Shapes = {"model.embed_tokens.weight": (vocabulary, HIDDEN), "model.norm.weight": (HIDDEN,)}
    if not tied:
        shapes["lm_head.weight"] = (vocabulary, HIDDEN)
    narrow = HIDDEN // HEADS * KEY_HEADS
    for layer in range(layers):
        prefix = f"model.layers.{layer}."
        shapes |= _linear(f"{prefix}self_attn.q_proj", HIDDEN, HIDDEN)
        shapes |= _linear(f"{prefix}self_attn.k_proj", HIDDEN, narrow)
        shapes |= _linear(f"{prefix}self_attn.v_proj", HIDDEN, narrow)
        shapes |= {
            f"{prefix}self_attn.o_proj.weight": (HIDDEN, HIDDEN),
            f"{prefix}mlp.gate_proj.weight": (MLP, HIDDEN),
            f"{prefix}mlp.up_proj.weight": (MLP, HIDDEN),
            f"{prefix}mlp.down_proj.weight": (HIDDEN, MLP),
            f"{prefix}input_layernorm.weight": (HIDDEN,),
            f"{prefix}post_attention_layernorm.weight": (HIDDEN,),
        }
    return shapes


# The vision encoder and the projector


def _encoder_shapes() -> Shapes:
    width, prefix = VISION_HIDDEN, "model.vision_encoder."
    shapes: Shapes = {
        f"{prefix}embeddings.patch_embedding.weight": (width, 3, PATCH_SIZE, PATCH_SIZE),
        f"{prefix}embeddings.patch_embedding.bias": (width,),
        f"{prefix}post_layernorm.weight": (width,),
        f"{prefix}post_layernorm.bias": (width,),
    }
    for layer in range(VISION_LAYERS):
        block = f"{prefix}encoder.layers.{layer}."
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            shapes |= _linear(f"{block}self_attn.{name}", width, width)
        shapes |= _linear(f"{block}mlp.fc1", width, VISION_MLP) | _linear(
            f"{block}mlp.fc2", VISION_MLP, width
        )
        for norm in ("layer_norm1", "layer_norm2"):
            shapes |= {f"{block}{norm}.weight": (width,), f"{block}{norm}.bias": (width,)}
    projector = "model.mm_projector.readout."
    return shapes | _linear(f"{projector}0", VISION_HIDDEN, HIDDEN) | _linear(f"{projector}2", HIDDEN, HIDDEN)


def _image_processor() -> dict[str, Any]:
    return {
        "auto_map": {
            "AutoImageProcessor": "image_processing_videollama3.Videollama3ImageProcessor",
            "AutoProcessor": "processing_videollama3.Videollama3Qwen2Processor",
        },
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_processor_type": "Videollama3ImageProcessor",
        "image_std": [0.5, 0.5, 0.5],
        "max_tokens": 16384,
        "min_tokens": 16,
        "patch_size": PATCH_SIZE,
        "processor_class": "Videollama3Qwen2Processor",
        "resample": 3,
        "rescale_factor": 1 / 255,
    }
