"""VideoLLaMA3's vision tower as the paper's scripts ran it: frames read one another before the language model.

The scripts ask for eager attention, and the tower's own eager attention adds its mask of frames (true where two patches
are of one frame) to the scores as a number. So a patch reads all frames of its video, and its own frame with scores
higher by one. transformers' tower, which runs here otherwise, lets a frame read itself alone.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from transformers.models.video_llama_3.modeling_video_llama_3 import (
    VideoLlama3VisionAttention,
    apply_rotary_pos_emb_vision,
)


def run_as_the_scripts_did(model: Any) -> None:
    """Changes the vision tower of a loaded model, in place; weights stay as they are."""
    tower = model.model.vision_model
    attentions = [layer.self_attn for layer in tower.encoder.layers]
    for attention in attentions:
        attention.__class__ = ScriptsAttention

    def note_videos(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        grid = kwargs["grid_thw"] if "grid_thw" in kwargs else args[1]
        frames = grid[:, 0].tolist()
        for attention in attentions:
            attention.frames_of_videos = frames

    tower.register_forward_pre_hook(note_videos, with_kwargs=True)


class ScriptsAttention(VideoLlama3VisionAttention):  # type: ignore[misc]
    """`frames_of_videos` says how many frames each video of a call has; videos never read one another."""

    frames_of_videos: list[int]

    def forward(
        self,
        hidden_states: Tensor,
        cu_seqlens: Tensor,
        position_embeddings: tuple[Tensor, Tensor],
        **kwargs: Any,
    ) -> tuple[Tensor, None]:
        """[patch, width] to [patch, width]; `cu_seqlens` are the borders of the frames."""
        shape = hidden_states.shape[0], self.num_heads, self.head_dim
        query, key, value = (
            projection(hidden_states).view(shape) for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        query, key = apply_rotary_pos_emb_vision(query, key, *position_embeddings)
        query, key, value = (part.transpose(0, 1) for part in (query, key, value))  # [head, patch, width]
        borders, read, first = cu_seqlens.tolist(), [], 0
        for count in self.frames_of_videos:
            video = borders[first : first + count + 1]
            start, stop = video[0], video[-1]
            for low, high in pairwise(video):
                scores = query[:, low:high] @ key[:, start:stop].transpose(1, 2) * self.scaling
                scores[..., low - start : high - start] += 1
                weights = scores.softmax(-1, dtype=torch.float32).to(query.dtype)
                read.append((weights @ value[:, start:stop]).transpose(0, 1).flatten(1))
            first += count
        return self.out_proj(torch.cat(read)), None
