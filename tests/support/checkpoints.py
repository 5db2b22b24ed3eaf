"""Makers of tiny checkpoints in the layouts that people publish: seeded random weights, real files.

The tensors' names and the configuration are written out here, not taken from a transformers model, so a test
that loads such a folder tests the renaming that transformers does on the way.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from torch import Tensor

HIDDEN, HEADS, MLP = 64, 4, 96  # of the language model
VISION_HIDDEN, VISION_HEADS, VISION_MLP, VISION_LAYERS = 32, 2, 64, 3
IMAGE_SIZE, PATCH_SIZE = (
    56,
    14,
)  # 4 x 4 patches a frame, 2 x 2 tokens when they are mean-pooled
GRID = IMAGE_SIZE // PATCH_SIZE

# What the checkpoints of the LLaVA family on the model hub use: media first, then the text of the turn.
CHAT_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] != 'system' %}{{ message['role'].upper() + ': ' }}{% endif %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% endfor %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'video') %}{{ '<video>\n' }}{% endfor %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}{{ content['text'] + ' ' }}"
    "{% endfor %}{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)

# The tokenizer

CORPUS = """
Carefully watch the video and pay attention to the cause and sequence of events, the detail and movement of objects,
and the action and pose of persons. Based on your observations, select the best option that accurately addresses the
question. USER: ASSISTANT: Question: Options: Only give the best option. Best option:( Answer with the option letter
only. What is the direction of the moving object? From left to right. From right to left. Which one of these
descriptions correctly matches the actions in the video? How many times does the person do it? What happened first?
before after person opens closes takes puts up down none other the a an of in on and is are with red green blue square
"""
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
PUNCTUATION = ".,:;!?()[]'\"-+*/=<>_#&%$@"


@functools.cache
def _llama_merges() -> list[tuple[str, str]]:
    """Merges learned from the corpus, behind those that the prompts of a LLaVA need (`:(` is one token)."""
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Metaspace(prepend_scheme="always"),
            pre_tokenizers.Punctuation(),
        ]
    )
    trainer = trainers.BpeTrainer(vocab_size=500, show_progress=False, initial_alphabet=["▁"])
    learner.train_from_iterator(CORPUS.split("\n"), trainer)
    learned = [tuple(merge) for merge in json.loads(learner.to_str())["model"]["merges"]]
    needed = [(":", "("), *(("▁", letter) for letter in LETTERS + PUNCTUATION)]
    return list(dict.fromkeys(needed + learned))


def llama_tokenizer(*special: str) -> Tokenizer:
    """A byte-fallback BPE tokenizer with Llama's legacy normaliser; `special` tokens come after the vocabulary.

    A line break has no token of its own and falls back to its byte, as in Llama.
    """
    merges = _llama_merges()
    pieces = [
        "<unk>",
        "<s>",
        "</s>",
        *(f"<0x{byte:02X}>" for byte in range(256)),
        "▁",
        *LETTERS,
        *PUNCTUATION,
    ]
    pieces += [left + right for left, right in merges]
    vocabulary = {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = Tokenizer(
        models.BPE(
            vocab=vocabulary,
            merges=merges,
            unk_token="<unk>",
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A",
        pair="<s> $A <s> $B",
        special_tokens=[("<s>", vocabulary["<s>"])],
    )
    named = ["<unk>", "<s>", "</s>", *special]
    tokenizer.add_special_tokens([AddedToken(name, normalized=False, special=True) for name in named])
    return tokenizer


def write_tokenizer(folder: Path, *special: str) -> Tokenizer:
    """tokenizer.json and tokenizer_config.json, as a Llama-based checkpoint has them."""
    tokenizer = llama_tokenizer(*special)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "LlamaTokenizer",
        "legacy": True,
        "add_bos_token": True,
        "add_eos_token": False,
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "pad_token": "<pad>" if "<pad>" in special else "<unk>",
        "padding_side": "left",
        "clean_up_tokenization_spaces": False,
        "model_max_length": 4096,
    }
    _write_json(folder / "tokenizer_config.json", config)
    return tokenizer


# Weights

Shapes = dict[str, tuple[int, ...]]


def _llama_shapes(layers: int, vocabulary: int) -> Shapes:
    shapes: Shapes = {
        "language_model.model.embed_tokens.weight": (vocabulary, HIDDEN),
        "language_model.model.norm.weight": (HIDDEN,),
        "language_model.lm_head.weight": (vocabulary, HIDDEN),
    }
    for layer in range(layers):
        prefix = f"language_model.model.layers.{layer}."
        for name in "qkvo":
            shapes[f"{prefix}self_attn.{name}_proj.weight"] = (HIDDEN, HIDDEN)
        shapes[f"{prefix}mlp.gate_proj.weight"] = shapes[f"{prefix}mlp.up_proj.weight"] = (MLP, HIDDEN)
        shapes[f"{prefix}mlp.down_proj.weight"] = (HIDDEN, MLP)
        shapes[f"{prefix}input_layernorm.weight"] = (HIDDEN,)
        shapes[f"{prefix}post_attention_layernorm.weight"] = (HIDDEN,)
    return shapes


def _clip_shapes() -> Shapes:
    prefix, width = "vision_tower.vision_model.", VISION_HIDDEN
    shapes: Shapes = {
        f"{prefix}embeddings.class_embedding": (width,),
        f"{prefix}embeddings.patch_embedding.weight": (
            width,
            3,
            PATCH_SIZE,
            PATCH_SIZE,
        ),
        f"{prefix}embeddings.position_embedding.weight": (GRID**2 + 1, width),
    }
    norms = ["pre_layrnorm", "post_layernorm"]  # "layrnorm" is how CLIP spells it
    for layer in range(VISION_LAYERS):
        block = f"encoder.layers.{layer}."
        for name in "qkv":
            shapes |= _linear(f"{prefix}{block}self_attn.{name}_proj", width, width)
        shapes |= _linear(f"{prefix}{block}self_attn.out_proj", width, width)
        shapes |= _linear(f"{prefix}{block}mlp.fc1", width, VISION_MLP) | _linear(
            f"{prefix}{block}mlp.fc2", VISION_MLP, width
        )
        norms += [f"{block}layer_norm1", f"{block}layer_norm2"]
    for norm in norms:
        shapes[f"{prefix}{norm}.weight"] = shapes[f"{prefix}{norm}.bias"] = (width,)
    return shapes


def _linear(name: str, inputs: int, outputs: int) -> Shapes:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def _projector_shapes() -> Shapes:
    prefix = "multi_modal_projector."
    return _linear(f"{prefix}linear_1", VISION_HIDDEN, HIDDEN) | _linear(f"{prefix}linear_2", HIDDEN, HIDDEN)


def _random_weights(shapes: Shapes, seed: int) -> dict[str, Tensor]:
    """Norms of one, small biases, and matrices large enough that attention moves the logits."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, shape in shapes.items():
        values = torch.randn(shape, generator=generator)
        if len(shape) > 1:
            values *= 1.5 / (values.numel() / shape[0]) ** 0.5
        elif "norm" in name and name.endswith("weight"):
            values = 1 + 0.1 * values
        else:
            values *= 0.1
        weights[name] = values
    return weights


def _write_weights(folder: Path, weights: dict[str, Tensor], shards: int, dtype: torch.dtype) -> None:
    """model.safetensors, or the tensors dealt over `shards` files with an index beside them."""
    weights = {name: values.to(dtype).contiguous() for name, values in weights.items()}
    if shards == 1:
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        return
    names = sorted(weights)
    size = -(-len(names) // shards)
    placed: dict[str, str] = {}
    for shard in range(shards):
        file = f"model-{shard + 1:05d}-of-{shards:05d}.safetensors"
        part = {name: weights[name] for name in names[shard * size : (shard + 1) * size]}
        save_file(part, folder / file, metadata={"format": "pt"})
        placed |= dict.fromkeys(part, file)
    total = sum(values.nbytes for values in weights.values())
    _write_json(
        folder / "model.safetensors.index.json",
        {"metadata": {"total_size": total}, "weight_map": placed},
    )


# Configurations


def _text_config(layers: int, vocabulary: int) -> dict[str, Any]:
    return {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": HIDDEN,
        "intermediate_size": MLP,
        "num_hidden_layers": layers,
        "num_attention_heads": HEADS,
        "num_key_value_heads": HEADS,
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-05,
        "vocab_size": vocabulary,
    }


def _vision_config() -> dict[str, Any]:
    return {
        "model_type": "clip_vision_model",
        "hidden_size": VISION_HIDDEN,
        "intermediate_size": VISION_MLP,
        "num_hidden_layers": VISION_LAYERS,
        "num_attention_heads": VISION_HEADS,
        "image_size": IMAGE_SIZE,
        "patch_size": PATCH_SIZE,
        "projection_dim": VISION_HIDDEN,
    }


def _config(
    kind: str, architecture: str, layers: int, tokenizer: Tokenizer, dtype: torch.dtype
) -> dict[str, Any]:
    """What the configurations of all three kinds share. The vocabulary is padded, as in the real ones."""
    vocabulary = -(-tokenizer.get_vocab_size() // 64) * 64
    return {
        "model_type": kind,
        "architectures": [architecture],
        "torch_dtype": str(dtype).removeprefix("torch."),
        "image_token_index": tokenizer.token_to_id("<image>"),
        "pad_token_id": tokenizer.token_to_id("<pad>"),
        "ignore_index": -100,
        "projector_hidden_act": "gelu",
        "vision_feature_layer": -2,
        "vision_feature_select_strategy": "default",
        "text_config": _text_config(layers, vocabulary),
        "vision_config": _vision_config(),
    }


def _image_processor(kind: str, processor: str, **extra: Any) -> dict[str, Any]:
    return {
        "image_processor_type": kind,
        "processor_class": processor,
        "do_convert_rgb": True,
        "do_resize": True,
        "do_center_crop": True,
        "do_rescale": True,
        "do_normalize": True,
        "size": {"shortest_edge": IMAGE_SIZE},
        "crop_size": {"height": IMAGE_SIZE, "width": IMAGE_SIZE},
        "resample": 3,
        "rescale_factor": 1 / 255,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
        **extra,
    }


def _write_processor(folder: Path, kind: str, image_processor: dict[str, Any], **extra: Any) -> None:
    config = {
        "processor_class": kind,
        "patch_size": PATCH_SIZE,
        "vision_feature_select_strategy": "default",
        "num_additional_image_tokens": 1,
        "image_token": "<image>",
    }
    _write_json(folder / "preprocessor_config.json", image_processor)
    _write_json(folder / "processor_config.json", config | extra)


def _write_json(file: Path, content: Any) -> None:
    file.write_text(json.dumps(content, indent=2))


# The checkpoints


def paper_llava(
    folder: Path,
    *,
    layers: int = 4,
    shards: int = 1,
    processor: bool = True,
    chat_template: str = "",
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> dict[str, Tensor]:
    """The layout of the paper's LLaVA-NeXT-Video-FT checkpoints, scaled down: 8 frames of 2 x 2 pooled tokens.

    `chat_template` names the file that holds one: chat_template.json (older uploads, read by processors alone),
    chat_template.jinja or tokenizer_config.json. Returns the weights by the names under which they were written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = write_tokenizer(folder, "<image>", "<pad>")
    config = _config("llava", "PllavaForConditionalGeneration", layers, tokenizer, dtype) | {
        "pooling_method": "avg",
        "pooling_shape": [8, GRID // 2, GRID // 2],
        "frame_shape": [GRID, GRID],
        "num_frames": 8,
        "use_pooling": True,
        "gradient_checkpointing": False,
        "force_eager": False,
    }
    _write_json(folder / "config.json", config)
    if processor:
        _write_processor(
            folder,
            "LlavaProcessor",
            _image_processor("CLIPImageProcessor", "LlavaProcessor"),
        )
    if chat_template.endswith(".jinja"):
        (folder / chat_template).write_text(CHAT_TEMPLATE)
    elif chat_template:
        file = folder / chat_template
        content = json.loads(file.read_text()) if file.exists() else {}
        _write_json(file, content | {"chat_template": CHAT_TEMPLATE})
    return _finish(folder, config, shards, dtype, seed)


def image_base(
    folder: Path,
    *,
    layers: int = 4,
    shards: int = 1,
    dtype: torch.dtype = torch.float32,
    seed: int = 1,
) -> dict[str, Tensor]:
    """The layout of the image-only LLaVA-NeXT (Vicuna) checkpoints: tiles, a newline weight, no pooling fields."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = write_tokenizer(folder, "<image>", "<pad>")
    pinpoints = _pinpoints()
    config = _config("llava_next", "LlavaNextForConditionalGeneration", layers, tokenizer, dtype) | {
        "image_grid_pinpoints": pinpoints,
        "use_image_newline_parameter": True,
        "tie_word_embeddings": False,
    }
    _write_json(folder / "config.json", config)
    image_processor = _image_processor(
        "LlavaNextImageProcessor",
        "LlavaNextProcessor",
        image_grid_pinpoints=pinpoints,
        do_pad=True,
    )
    _write_processor(folder, "LlavaNextProcessor", image_processor)
    _write_json(folder / "chat_template.json", {"chat_template": CHAT_TEMPLATE})
    return _finish(folder, config, shards, dtype, seed, newline=True)


def next_video(
    folder: Path,
    *,
    layers: int = 4,
    shards: int = 1,
    dtype: torch.dtype = torch.float32,
    seed: int = 2,
) -> dict[str, Tensor]:
    """The layout of LLaVA-NeXT-Video: a video token of its own, features pooled before the projector."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = write_tokenizer(folder, "<video>", "<image>", "<pad>")
    config = _config(
        "llava_next_video",
        "LlavaNextVideoForConditionalGeneration",
        layers,
        tokenizer,
        dtype,
    ) | {
        "video_token_index": tokenizer.token_to_id("<video>"),
        "image_grid_pinpoints": _pinpoints(),
        "spatial_pool_mode": "average",
        "spatial_pool_stride": 2,
        "image_seq_length": GRID**2,
        "video_seq_length": GRID**2 // 4 * 8,
        "use_image_newline_parameter": True,
    }
    _write_json(folder / "config.json", config)
    image_processor = _image_processor(
        "LlavaNextImageProcessor",
        "LlavaNextVideoProcessor",
        image_grid_pinpoints=_pinpoints(),
        do_pad=True,
    )
    _write_processor(folder, "LlavaNextVideoProcessor", image_processor, video_token="<video>")
    video_processor = _image_processor("", "LlavaNextVideoProcessor")
    del video_processor["image_processor_type"]
    video_processor["video_processor_type"] = "LlavaNextVideoVideoProcessor"
    _write_json(folder / "video_preprocessor_config.json", video_processor)
    _write_json(folder / "chat_template.json", {"chat_template": CHAT_TEMPLATE})
    return _finish(folder, config, shards, dtype, seed, newline=True)


def _pinpoints() -> list[list[int]]:
    one, two, three = IMAGE_SIZE, 2 * IMAGE_SIZE, 3 * IMAGE_SIZE
    return [[one, two], [two, one], [two, two], [three, one], [one, three]]


def _finish(
    folder: Path,
    config: dict[str, Any],
    shards: int,
    dtype: torch.dtype,
    seed: int,
    newline: bool = False,
) -> dict[str, Tensor]:
    text = config["text_config"]
    shapes = (
        _llama_shapes(text["num_hidden_layers"], text["vocab_size"]) | _clip_shapes() | _projector_shapes()
    )
    if newline:
        shapes["image_newline"] = (HIDDEN,)
    weights = _random_weights(shapes, seed)
    _write_weights(folder, weights, shards, dtype)
    generation = {
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": config["pad_token_id"],
    }
    _write_json(folder / "generation_config.json", generation)
    return weights
