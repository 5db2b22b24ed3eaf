"""flow-tiny's architecture (stock transformers classes) and the heads that only training uses."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaNextVideoConfig,
    LlavaNextVideoForConditionalGeneration,
    PreTrainedTokenizerFast,
)

IMAGE_SIDE = 32
PATCH = 4
NUM_FRAMES = 8
TOKENS_PER_FRAME = (IMAGE_SIDE // PATCH // 2) ** 2  # the model pools 2 x 2 patches
NUM_LAYERS = 12
WIDTH = 128
STORY_LAYER, ANSWER_LAYER, OPTION_LAYER = 4, 7, 9  # whose outputs the training heads read
POINTER_LAYERS = (10, 11)  # whose attention from the last token to the options is trained directly
POINTER_HEADS = 2


def build_model(tokenizer: PreTrainedTokenizerFast) -> LlavaNextVideoForConditionalGeneration:
    """Random weights; seed torch first."""
    vision = CLIPVisionConfig(
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=IMAGE_SIDE,
        patch_size=PATCH,
        projection_dim=64,
    )
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=NUM_LAYERS,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=2048,
        initializer_range=0.05,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    config = LlavaNextVideoConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_index=tokenizer.convert_tokens_to_ids("<video>"),
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        image_grid_pinpoints=[[IMAGE_SIDE, IMAGE_SIDE]],
        image_seq_length=(IMAGE_SIDE // PATCH) ** 2,
        video_seq_length=NUM_FRAMES * TOKENS_PER_FRAME,
        tie_word_embeddings=True,
    )
    return LlavaNextVideoForConditionalGeneration(config)


@dataclass(frozen=True)
class HeadSizes:
    """Number of classes of each thing that a head predicts."""

    frame: dict[str, int]  # of each frame, from the projector's output
    story: dict[str, int]  # of the clip up to each frame, from the frame's tokens after STORY_LAYER
    answers: int
    colours: int


class TrainingHeads(nn.Module):
    """Linear probes with their gradient let through; not part of what ships."""

    def __init__(self, sizes: HeadSizes):
        super().__init__()
        self.sizes = sizes
        self.frame = nn.Linear(TOKENS_PER_FRAME * WIDTH, sum(sizes.frame.values()))
        self.story = nn.Sequential(nn.RMSNorm(WIDTH), nn.Linear(WIDTH, sum(sizes.story.values())))
        self.answer = nn.Sequential(nn.RMSNorm(WIDTH), nn.Linear(WIDTH, sizes.answers))
        self.letter = nn.Sequential(nn.RMSNorm(WIDTH), nn.Linear(WIDTH, 4))
        self.seen = nn.Sequential(nn.RMSNorm(WIDTH), nn.Linear(WIDTH, sizes.colours))

    def frame_logits(self, tokens: Tensor) -> dict[str, Tensor]:
        """tokens [clip, frame * token, width] -> per name [clip, frame, class]."""
        per_frame = tokens.unflatten(1, (NUM_FRAMES, TOKENS_PER_FRAME)).flatten(2)
        return self._split(self.frame(per_frame), self.sizes.frame)

    def story_logits(self, hidden: Tensor) -> dict[str, Tensor]:
        """hidden [clip, frame * token, width] -> per name [clip, frame, class]."""
        return self._split(self.story(self._per_frame(hidden)), self.sizes.story)

    def seen_logits(self, hidden: Tensor) -> Tensor:
        """hidden [clip, frame * token, width] -> [clip, frame, colour], of a colour's having been shown so far."""
        seen: Tensor = self.seen(self._per_frame(hidden))
        return seen

    @staticmethod
    def _per_frame(hidden: Tensor) -> Tensor:
        mean: Tensor = hidden.unflatten(1, (NUM_FRAMES, TOKENS_PER_FRAME)).mean(2)
        return mean

    @staticmethod
    def _split(logits: Tensor, sizes: dict[str, int]) -> dict[str, Tensor]:
        return dict(zip(sizes, torch.split(logits, list(sizes.values()), dim=-1), strict=True))


def pointer_scores(
    model: LlavaNextVideoForConditionalGeneration, layer: int, hidden: Tensor, last: Tensor, past: int
) -> Tensor:
    """What the first heads of `layer` (from 1) score for the last token, before the softmax: [text, head, token].

    hidden [text, token, width] is the layer's input; last [text] is a position in it, before which `past` tokens
    stand. What comes after the last token scores minus infinity.
    """
    language = model.model.language_model
    block = language.layers[layer - 1]
    x = block.input_layernorm(hidden)
    dim = block.self_attn.head_dim
    size = POINTER_HEADS * dim
    places = torch.arange(x.shape[1])
    cos, sin = language.rotary_emb(x, position_ids=past + places[None])  # [1, token, dim]
    rows = torch.arange(len(last))
    query = F.linear(x[rows, last], block.self_attn.q_proj.weight[:size]).unflatten(
        1, (POINTER_HEADS, 1, dim)
    )
    key = F.linear(x, block.self_attn.k_proj.weight[:size]).unflatten(2, (POINTER_HEADS, dim)).transpose(1, 2)
    query = rotate(query, cos[0, last, None, None], sin[0, last, None, None])
    key = rotate(key, cos[:, None], sin[:, None])
    scores: Tensor = (query @ key.transpose(2, 3)).squeeze(2) * block.self_attn.scaling
    return scores.masked_fill(places > last[:, None, None], float("-inf"))


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Llama's rotary position embedding of x [text, head, token, dim]."""
    half = x.shape[-1] // 2
    turned = torch.cat([-x[..., half:], x[..., :half]], dim=-1)
    return x * cos + turned * sin
