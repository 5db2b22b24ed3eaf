"""The paper's forward pass written out: what a wrapper's answers without a flow must equal, token for token.

Nothing here is shared with the package. The features are pooled with the operator of the paper's code, take the
place of one `<image>` token, and every step of the decoding computes the whole sequence anew.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
import transformers
from torch import Tensor


def load_paper_model(folder: Path) -> transformers.LlavaForConditionalGeneration:
    """A checkpoint of the paper, or its image-only base, as the paper's class."""
    values = json.loads((folder / "config.json").read_text()) | {"model_type": "llava"}
    config = transformers.LlavaConfig.from_dict(values)
    return transformers.LlavaForConditionalGeneration.from_pretrained(
        folder, config=config, attn_implementation="eager", dtype=torch.float32
    ).eval()


@torch.no_grad()
def video_features(model: transformers.LlavaForConditionalGeneration, pixel_values: Tensor) -> Tensor:
    """[frame, channel, height, width] to [token, hidden]: 2 x 2 means after the projector, frame after frame."""
    frames = pixel_values.shape[0]
    states = model.model.vision_tower(pixel_values, output_hidden_states=True).hidden_states[-2][:, 1:]
    projected = model.model.multi_modal_projector(states)
    side = int(projected.shape[1] ** 0.5)
    grid = projected.reshape(1, frames, side, side, -1).permute(0, 4, 1, 2, 3)
    pooled = torch.nn.AdaptiveAvgPool3d((frames, side // 2, side // 2))(grid)
    return pooled.permute(0, 2, 3, 4, 1).reshape(-1, projected.shape[-1])


@torch.no_grad()
def greedy_tokens(
    model: transformers.LlavaForConditionalGeneration,
    input_ids: Tensor,
    pixel_values: Tensor,
    new_tokens: int,
) -> list[int]:
    """Greedy answers to one prompt `[token]` with one `<image>`; ends behind the end-of-sequence token."""
    at = input_ids.tolist().index(model.config.image_token_index)
    embed = model.get_input_embeddings()
    features = video_features(model, pixel_values)
    row = torch.cat([embed(input_ids[:at]), features, embed(input_ids[at + 1 :])])
    answer: list[int] = []
    for _ in range(new_tokens):
        hidden = model.model.language_model(inputs_embeds=row[None], use_cache=False).last_hidden_state
        answer.append(int(model.lm_head(hidden[0, -1]).argmax()))
        if answer[-1] == model.generation_config.eos_token_id:
            break
        row = torch.cat([row, embed(torch.tensor(answer[-1:]))])
    return answer
