"""The sizes of the known checkpoints, for counting the FLOPs and bytes of a prefill without loading one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

BF16 = 2  # bytes


@dataclass(frozen=True)
class DecoderShape:
    """A decoder as the ledger needs it. A weight is one entry of a linear map and costs a row 2 FLOPs."""

    weights: tuple[int, ...]  # of each layer's linear maps
    attention_width: int  # query heads * head width
    cache_width: int  # key/value heads * head width
    head_weights: int  # width * vocabulary
    bytes_each: int = BF16  # of an entry of the cache

    @classmethod
    def gated(
        cls,
        *,
        layers: int,
        width: int,
        mlp_width: int,
        heads: int,
        kv_heads: int,
        head_width: int,
        vocabulary: int,
        bytes_each: int = BF16,
    ) -> DecoderShape:
        """Llama's kind, to which Vicuna, Phi-3 and Qwen2 belong: a gated MLP of three maps, no map of another sort."""
        attention, cache = heads * head_width, kv_heads * head_width
        weights = 2 * width * attention + 2 * width * cache + 3 * width * mlp_width
        return cls((weights,) * layers, attention, cache, width * vocabulary, bytes_each)

    @property
    def num_layers(self) -> int:
        """The decoder's depth."""
        return len(self.weights)


@dataclass(frozen=True)
class VisionShape:
    """A vision transformer that sees one frame at a time, and the projector behind it."""

    layers: int  # that run; LLaVA reads the second last and runs the last one all the same
    width: int
    mlp_width: int
    patches: int  # a frame
    patch_size: int  # pixels a side
    extra_tokens: int  # the class token
    projector_weights: int
    projected: int  # tokens a frame that go through the projector

    def flops(self, frames: int) -> int:
        """Of the tower and its projector: patches, linear maps, attention of every token to every other."""
        tokens = self.patches + self.extra_tokens
        embedding = 2 * self.patches * 3 * self.patch_size**2 * self.width
        linear = 2 * tokens * (4 * self.width**2 + 2 * self.width * self.mlp_width)
        attention = 4 * self.width * tokens**2
        projector = 2 * self.projected * self.projector_weights
        return frames * (embedding + self.layers * (linear + attention) + projector)


@dataclass(frozen=True)
class ModelShape:
    """What a VideoLLM's prefill is made of."""

    decoder: DecoderShape
    vision: VisionShape


def _llava(layers: int, width: int, mlp_width: int, heads: int) -> ModelShape:
    """Vicuna behind CLIP-L/336; the projector sees all 576 patches of a frame and is pooled after it."""
    decoder = DecoderShape.gated(
        layers=layers,
        width=width,
        mlp_width=mlp_width,
        heads=heads,
        kv_heads=heads,
        head_width=128,
        vocabulary=32064,
    )
    return ModelShape(
        decoder,
        VisionShape(24, 1024, 4096, 576, 14, 1, projector_weights=1024 * width + width**2, projected=576),
    )


SHAPES: Mapping[str, ModelShape] = {
    "effective-llava-next-7b": _llava(32, 4096, 11008, 32),
    "effective-llava-next-13b": _llava(40, 5120, 13824, 40),
    # Phi-3-mini behind InternViT-300M at 448 pixels; four patches become one token four times as wide.
    "effective-mini-internvl-4b": ModelShape(
        DecoderShape.gated(
            layers=32, width=3072, mlp_width=8192, heads=32, kv_heads=32, head_width=96, vocabulary=32064
        ),
        VisionShape(24, 1024, 4096, 1024, 14, 1, projector_weights=4096 * 3072 + 3072**2, projected=256),
    ),
    # Qwen2.5 behind SigLIP-so400m. A frame's size varies: this is the paper's prompt, 132 tokens of four patches each.
    "effective-videollama3-7b": ModelShape(
        DecoderShape.gated(
            layers=28, width=3584, mlp_width=18944, heads=28, kv_heads=4, head_width=128, vocabulary=152064
        ),
        VisionShape(27, 1152, 4304, 4 * 132, 14, 0, projector_weights=1152 * 3584 + 3584**2, projected=132),
    ),
}


def llava_next_video_shape(config: Mapping[str, Any]) -> ModelShape:
    """The sizes in a LLaVA-NeXT-Video's config.json (CLIP before Llama, fp32); it pools before the projector."""
    text, vision = config["text_config"], config["vision_config"]
    decoder = DecoderShape.gated(
        layers=text["num_hidden_layers"],
        width=text["hidden_size"],
        mlp_width=text["intermediate_size"],
        heads=text["num_attention_heads"],
        kv_heads=text["num_key_value_heads"],
        head_width=text["head_dim"],
        vocabulary=text["vocab_size"],
        bytes_each=4,
    )
    patches = (vision["image_size"] // vision["patch_size"]) ** 2
    tower = VisionShape(
        layers=vision["num_hidden_layers"],
        width=vision["hidden_size"],
        mlp_width=vision["intermediate_size"],
        patches=patches,
        patch_size=vision["patch_size"],
        extra_tokens=1,
        projector_weights=vision["hidden_size"] * text["hidden_size"] + text["hidden_size"] ** 2,
        projected=patches // config["spatial_pool_stride"] ** 2,
    )
    return ModelShape(decoder, tower)
