"""Write what ships from a checkpoint: python -m scripts.flow_tiny.export CHECKPOINT [--out DIR]."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import (
    GenerationConfig,
    LlavaNextImageProcessor,
    LlavaNextVideoProcessor,
    LlavaNextVideoVideoProcessor,
    PreTrainedTokenizerFast,
)

from scripts.flow_tiny.model import IMAGE_SIDE, PATCH, build_model
from scripts.flow_tiny.text import CHAT_TEMPLATE, build_tokenizer

SHIPPED = Path(__file__).parents[2] / "lmms_flow" / "assets" / "flow-tiny"


def build_processor(tokenizer: PreTrainedTokenizerFast) -> LlavaNextVideoProcessor:
    square = {"height": IMAGE_SIDE, "width": IMAGE_SIDE}
    half = [0.5, 0.5, 0.5]
    return LlavaNextVideoProcessor(
        video_processor=LlavaNextVideoVideoProcessor(
            size={"shortest_edge": IMAGE_SIDE}, crop_size=square, image_mean=half, image_std=half
        ),
        image_processor=LlavaNextImageProcessor(
            size={"shortest_edge": IMAGE_SIDE},
            crop_size=square,
            image_mean=half,
            image_std=half,
            image_grid_pinpoints=[[IMAGE_SIDE, IMAGE_SIDE]],
        ),
        tokenizer=tokenizer,
        chat_template=CHAT_TEMPLATE,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )


def export(checkpoint: Path, out: Path) -> None:
    """Weights in float32 (the file stays under 10 MB), processor, tokenizer and configurations."""
    tokenizer = build_tokenizer()
    model = build_model(tokenizer)
    model.load_state_dict(torch.load(checkpoint, weights_only=True)["model"])
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        do_sample=False,
    )
    model.save_pretrained(out)
    _name_for_all_versions(out / "model.safetensors")
    build_processor(tokenizer).save_pretrained(out)


def _name_for_all_versions(file: Path) -> None:
    """The tower's weights by the names that old releases of transformers read too (5.24 writes shorter ones)."""
    tower, inner = "vision_tower.", "vision_tower.vision_model."
    weights = load_file(file)
    named = {
        name
        if not name.startswith(tower) or name.startswith(inner)
        else inner + name.removeprefix(tower): weight
        for name, weight in weights.items()
    }
    save_file(named, file, metadata={"format": "pt"})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--out", type=Path, default=SHIPPED)
    args = parser.parse_args()
    export(args.checkpoint, args.out)


if __name__ == "__main__":
    main()
