"""Tiny checkpoints of video families as transformers writes them: each one's own configuration and processor classes.

    write("qwen2_5_vl", folder)

Weights are random and seeded, templates are those of the published checkpoints, tokenizers are of their kind.
`native_families.py` has what each family is made of.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForImageTextToText, AutoTokenizer

from tests.support.checkpoints import write_tokenizer
from tests.support.checkpoints_videollama3 import write_qwen_tokenizer
from tests.support.models import enliven

Ids = Callable[[str], int]  # a token's id


@dataclass(frozen=True)
class Native:
    """What a family's checkpoint is made of.

    Args:
        config: of so many layers, with the ids of its tokens and the size of its vocabulary.
        processor: the processor around a tokenizer.
        tokens: special tokens, behind the vocabulary.
        named: how the tokenizer calls some of them (`tokenizer.image_token`).
        template: the published chat template.
        llama: whether the tokenizer is of Llama's kind; else of Qwen's.
        published: a checkpoint of the family by its repository, its layers, its tokens a frame.
    """

    config: Callable[[int, Ids, int], Any]
    processor: Callable[[Any], Any]
    tokens: tuple[str, ...]
    template: str
    named: dict[str, str] = field(default_factory=dict)
    llama: bool = False
    published: tuple[str, int | None, str] = ("", None, "")  # a checkpoint, its layers, its tokens a frame


def write(native: Native, folder: Path, *, layers: int = 4, seed: int = 0) -> Path:
    """A checkpoint in a folder: config.json, weights, tokenizer, processor and chat template."""
    folder.mkdir(parents=True, exist_ok=True)
    if native.llama:
        write_tokenizer(folder, *native.tokens)
    else:
        write_qwen_tokenizer(folder, *native.tokens)
    file = folder / "tokenizer_config.json"
    values = json.loads(file.read_text()) | {"extra_special_tokens": native.named}
    values.pop("chat_template", None)
    file.write_text(json.dumps(values, indent=2))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    processor = native.processor(tokenizer)
    processor.chat_template = native.template
    config = native.config(layers, tokenizer.convert_tokens_to_ids, len(tokenizer))
    torch.manual_seed(seed)
    model = AutoModelForImageTextToText.from_config(config)
    enliven(model, seed)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
