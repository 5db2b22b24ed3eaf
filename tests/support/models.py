"""Tiny models of the families that the engine supports: built from a config, with seeded weights, no tokenizer.

    model, make_inputs = tiny("qwen2_5_vl")
    prompt = make_inputs(frames=4)
    model(**prompt.tensors)

A prompt has the shape of a real one: system text, a video, template text, a question with options, template
text, and the last token. In a text-only family the video's tokens are ordinary ones.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch import Tensor

from lmms_flow.flow import Layout

DEVICE = os.environ.get("LMMS_FLOW_TEST_DEVICE", "cpu")  # `make test-gpu` says cuda
IMAGE_TOKEN, VIDEO_TOKEN, PAD_TOKEN, FIRST_TEXT_TOKEN = 5, 6, 0, 10
VOCABULARY = 160
PATCHES = (
    4  # a frame has PATCHES x PATCHES patches, and half as many tokens a side where the model merges them
)
PATCH_SIZE = 4
IMAGE_SIZE = PATCHES * PATCH_SIZE


@dataclass(frozen=True)
class Prompt:
    """What a model is called with, and where its groups lie (without padding)."""

    tensors: dict[str, Tensor]
    groups: dict[str, range]
    frames: list[
        range
    ]  # they partition the video; a separator in front of a frame belongs to the frame before

    @property
    def num_tokens(self) -> int:
        return self.groups["last"].stop

    @property
    def layout(self) -> Layout:
        return Layout(num_tokens=self.num_tokens, groups=dict(self.groups), frames=list(self.frames))


MakeInputs = Callable[..., Prompt]


@dataclass(frozen=True)
class Family:
    """How to build one family: its configuration, and what its video looks like in a prompt."""

    auto_class: str
    config: Callable[[int], transformers.PreTrainedConfig]
    token: int | None = None  # the placeholder of a video token; None: ordinary text stands for the video
    per_frame: int = 4
    trailing: int = 0  # placeholders behind the whole video (LLaVA-OneVision's newline)
    separators: bool = False  # a text token between two frames, as a timestamp would be
    positions_3d: bool = False  # the model asks which tokens are text, image or video
    pixels: Callable[[int, torch.Generator], dict[str, Tensor]] = lambda frames, generator: {}


def tiny(
    name: str, *, layers: int = 4, attn_implementation: str = "eager", seed: int = 0
) -> tuple[Any, MakeInputs]:
    """A model of the family `name` in fp32 and evaluation mode, and a maker of prompts for it."""
    family = FAMILIES[name]
    config = family.config(layers)
    torch.manual_seed(seed)
    auto_class = getattr(transformers, family.auto_class)
    model = auto_class.from_config(config, attn_implementation=attn_implementation, dtype=torch.float32)
    enliven(model, seed)
    model.generation_config.pad_token_id = PAD_TOKEN
    model.generation_config.eos_token_id = None  # random weights would stop where they like
    return model.eval().to(DEVICE), lambda **sizes: make_prompt(family, **sizes)


def enliven(model: torch.nn.Module, seed: int = 0) -> None:
    """Random weights large enough for attention to matter: the usual start of 0.02 gives almost uniform logits."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                fan_in = parameter.numel() // parameter.shape[0]
                parameter.normal_(0, 1.5 / fan_in**0.5, generator=generator)


def make_prompt(
    family: Family,
    *,
    frames: int = 4,
    system: int = 3,
    gap: int = 2,
    stem: int = 3,
    options: int = 4,
    tail: int = 2,
    seed: int = 0,
) -> Prompt:
    """One prompt (batch of one); every size is in tokens, `options` is split evenly into two."""
    generator = torch.Generator().manual_seed(seed)
    spans = _frame_spans(family, frames, start=system)
    end = spans[-1].stop
    edges = {
        "system": system,
        "video": end - system,
        "gap": gap,
        "question": stem + options,
        "tail": tail,
        "last": 1,
    }
    groups, at = {}, 0
    for group, size in edges.items():
        groups[group] = range(at, at + size)
        at += size
    question, half = groups["question"].start, options // 2
    groups["stem"] = range(question, question + stem)
    groups["options"] = range(question + stem, question + stem + options)
    groups["true_option"] = range(question + stem, question + stem + half)
    groups["false_options"] = range(question + stem + half, question + stem + options)

    ids = torch.randint(FIRST_TEXT_TOKEN, VOCABULARY, (1, at), generator=generator)
    if family.token is not None:
        for span, size in zip(spans, _placeholders(family, frames), strict=True):
            ids[0, span.start : span.start + size] = family.token
    tensors = {"input_ids": ids, "attention_mask": torch.ones_like(ids), **family.pixels(frames, generator)}
    if family.positions_3d:
        tensors["mm_token_type_ids"] = (ids == VIDEO_TOKEN).int() * 2
    return Prompt({name: tensor.to(DEVICE) for name, tensor in tensors.items()}, groups, spans)


def text_prompt(layout: Layout, seed: int = 0) -> dict[str, Tensor]:
    """Ordinary tokens in the shape of `layout`, for a text-only model."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(FIRST_TEXT_TOKEN, 100, (1, layout.num_tokens), generator=generator).to(DEVICE)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def _placeholders(family: Family, frames: int) -> list[int]:
    """Placeholder tokens of each frame, the trailing ones with the last."""
    return [family.per_frame] * (frames - 1) + [family.per_frame + family.trailing]


def _frame_spans(family: Family, frames: int, start: int) -> list[range]:
    spans = []
    for frame, size in enumerate(_placeholders(family, frames)):
        size += family.separators and frame < frames - 1
        spans.append(range(start, start + size))
        start += size
    return spans


def join(prompts: Sequence[Prompt], side: str = "left") -> dict[str, Tensor]:
    """The tensors of a batch: token rows padded on `side`, pixels one prompt after another."""
    width = max(prompt.num_tokens for prompt in prompts)
    batch: dict[str, Tensor] = {}
    for name in prompts[0].tensors:
        parts = [prompt.tensors[name] for prompt in prompts]
        if name in ("input_ids", "attention_mask", "mm_token_type_ids"):
            parts = [_pad(part, width, side) for part in parts]
        elif parts[0].dim() == 5:  # videos as [batch, frame, ...]
            frames = max(part.shape[1] for part in parts)
            parts = [_pad_frames(part, frames) for part in parts]
        batch[name] = torch.cat(parts)
    return batch


def _pad(row: Tensor, width: int, side: str) -> Tensor:
    missing = width - row.shape[1]
    return torch.nn.functional.pad(row, (missing, 0) if side == "left" else (0, missing), value=PAD_TOKEN)


def _pad_frames(video: Tensor, frames: int) -> Tensor:
    """Black frames behind a shorter video; only a model that skips those (SmolVLM) can take such a batch."""
    return torch.nn.functional.pad(video, (0, 0, 0, 0, 0, 0, 0, frames - video.shape[1]))


# Text backbones


def _text(config_class: str, *, heads: int = 4, kv_heads: int = 2, **extra: Any) -> Callable[[int], Any]:
    def make(layers: int) -> Any:
        return getattr(transformers, config_class)(
            vocab_size=VOCABULARY,
            hidden_size=64,
            intermediate_size=96,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=kv_heads,
            max_position_embeddings=2048,
            bos_token_id=1,
            eos_token_id=2,
            pad_token_id=PAD_TOKEN,
            **extra,
        )

    return make


_LLAMA = _text("LlamaConfig", kv_heads=4)
_QWEN2 = _text("Qwen2Config")


# Video models


_VISION: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "patch_size": PATCH_SIZE,
}
_TILED = _VISION | {"image_size": IMAGE_SIZE}  # where the tower takes pictures of one size alone


def _clip() -> transformers.CLIPVisionConfig:
    return transformers.CLIPVisionConfig(**_TILED | {"num_hidden_layers": 3}, projection_dim=32)


def _siglip() -> transformers.SiglipVisionConfig:
    return transformers.SiglipVisionConfig(**_TILED, vision_use_head=False)


def _llava(layers: int) -> Any:
    return transformers.LlavaConfig(
        vision_config=_clip(), text_config=_LLAMA(layers), image_token_index=IMAGE_TOKEN
    )


def _llava_next_video(layers: int) -> Any:
    return transformers.LlavaNextVideoConfig(
        vision_config=_clip(),
        text_config=_LLAMA(layers),
        image_token_index=IMAGE_TOKEN,
        video_token_index=VIDEO_TOKEN,
        image_grid_pinpoints=[[IMAGE_SIZE, 2 * IMAGE_SIZE]],
    )


def _llava_onevision(layers: int) -> Any:
    return transformers.LlavaOnevisionConfig(
        vision_config=_siglip(),
        text_config=_QWEN2(layers),
        image_token_index=IMAGE_TOKEN,
        video_token_index=VIDEO_TOKEN,
        image_grid_pinpoints=[[IMAGE_SIZE, 2 * IMAGE_SIZE]],
    )


def _internvl(layers: int) -> Any:
    return transformers.InternVLConfig(
        vision_config=transformers.InternVLVisionConfig(**_TILED),
        text_config=_QWEN2(layers),
        image_token_id=IMAGE_TOKEN,
        image_seq_length=4,
        tie_word_embeddings=False,
    )


def _video_llama_3(layers: int) -> Any:
    return transformers.VideoLlama3Config(
        text_config=_QWEN2(layers),
        vision_config=transformers.VideoLlama3VisionConfig(**_VISION),
        image_token_id=IMAGE_TOKEN,
        video_token_id=VIDEO_TOKEN,
    )


def _smolvlm(layers: int) -> Any:
    return transformers.SmolVLMConfig(
        vision_config=transformers.SmolVLMVisionConfig(**_TILED),
        text_config=_LLAMA(layers),
        image_token_id=IMAGE_TOKEN,
        scale_factor=2,
    )


def _qwen_vl(kind: str, separators: bool = False) -> Family:
    """Qwen's video models: rotary positions in three dimensions, 8 frequencies a head split 2, 3, 3."""
    vision: dict[str, Any] = {"depth": 2, "num_heads": 2, "patch_size": PATCH_SIZE, "temporal_patch_size": 2}
    if kind == "Qwen2VL":
        vision |= {"embed_dim": 32, "hidden_size": 64, "mlp_ratio": 2}
    else:
        vision |= {"hidden_size": 32, "out_hidden_size": 64, "intermediate_size": 64}
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}
    extra: dict[str, Any] = {}
    if kind == "Qwen2_5_VL":
        vision |= {"window_size": 2 * 2 * PATCH_SIZE, "fullatt_block_indexes": [1]}
    if kind == "Qwen3VL":
        # Features are added behind two decoder layers: no row may be dropped before the third.
        vision |= {"depth": 3, "num_position_embeddings": PATCHES**2, "deepstack_visual_indexes": [0, 1]}
        rope["mrope_interleaved"] = True
        extra["head_dim"] = 16

    def make(layers: int) -> Any:
        return getattr(transformers, f"{kind}Config")(
            text_config=_text(f"{kind}TextConfig", rope_parameters=dict(rope), **extra)(layers).to_dict(),
            vision_config=vision,
            image_token_id=IMAGE_TOKEN,
            video_token_id=VIDEO_TOKEN,
            vision_start_token_id=3,
            vision_end_token_id=4,
        )

    return Family(
        _VIDEO, make, token=VIDEO_TOKEN, separators=separators, positions_3d=True, pixels=_patches(temporal=2)
    )


# Pixels, as each family's processor would hand them over


def _images(name: str, *, batch_axis: bool) -> Callable[[int, torch.Generator], dict[str, Tensor]]:
    """Frames as whole images: [frame, channel, height, width], or with a batch axis in front."""

    def make(frames: int, generator: torch.Generator) -> dict[str, Tensor]:
        pixels = torch.randn(frames, 3, IMAGE_SIZE, IMAGE_SIZE, generator=generator)
        return {name: pixels[None] if batch_axis else pixels}

    return make


def _patches(temporal: int) -> Callable[[int, torch.Generator], dict[str, Tensor]]:
    """Frames as flat patches: [frame * row * column, channel * time * height * width], and their grid."""

    def make(frames: int, generator: torch.Generator) -> dict[str, Tensor]:
        pixels = torch.randn(frames * PATCHES**2, 3 * temporal * PATCH_SIZE**2, generator=generator)
        return {"pixel_values_videos": pixels, "video_grid_thw": torch.tensor([[frames, PATCHES, PATCHES]])}

    return make


def _merged_patches(frames: int, generator: torch.Generator) -> dict[str, Tensor]:
    return _patches(temporal=1)(frames, generator) | {"video_merge_sizes": torch.tensor([2])}


_CAUSAL, _VIDEO = "AutoModelForCausalLM", "AutoModelForImageTextToText"

FAMILIES: dict[str, Family] = {
    "llama": Family(_CAUSAL, _LLAMA),
    "qwen2": Family(_CAUSAL, _QWEN2),
    "qwen3": Family(_CAUSAL, _text("Qwen3Config", head_dim=16)),
    "mistral": Family(_CAUSAL, _text("MistralConfig", sliding_window=None)),
    "phi3": Family(_CAUSAL, _text("Phi3Config")),
    "gemma2": Family(_CAUSAL, _text("Gemma2Config", head_dim=16, sliding_window=8)),
    "llava": Family(
        _VIDEO, _llava, token=IMAGE_TOKEN, per_frame=16, pixels=_images("pixel_values", batch_axis=False)
    ),
    "llava_next_video": Family(
        _VIDEO, _llava_next_video, token=VIDEO_TOKEN, pixels=_images("pixel_values_videos", batch_axis=True)
    ),
    "llava_onevision": Family(
        _VIDEO,
        _llava_onevision,
        token=VIDEO_TOKEN,
        trailing=1,
        pixels=_images("pixel_values_videos", batch_axis=True),
    ),
    "internvl": Family(
        _VIDEO,
        _internvl,
        token=IMAGE_TOKEN,
        separators=True,
        pixels=_images("pixel_values", batch_axis=False),
    ),
    "smolvlm": Family(
        _VIDEO, _smolvlm, token=IMAGE_TOKEN, separators=True, pixels=_images("pixel_values", batch_axis=True)
    ),
    "video_llama_3": Family(
        _VIDEO, _video_llama_3, token=VIDEO_TOKEN, separators=True, pixels=_merged_patches
    ),
    "qwen2_vl": _qwen_vl("Qwen2VL"),
    "qwen2_5_vl": _qwen_vl("Qwen2_5_VL"),
    "qwen3_vl": _qwen_vl("Qwen3VL", separators=True),
}
TEXT_FAMILIES = [name for name, family in FAMILIES.items() if family.token is None]
VIDEO_FAMILIES = [name for name, family in FAMILIES.items() if family.token is not None]
