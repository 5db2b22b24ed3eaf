"""The written-out forward pass equals transformers' own, with the projector's output pooled."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from tests.support.by_hand import greedy_tokens, load_paper_model
from tests.support.checkpoints import image_base, paper_llava


@pytest.mark.parametrize("make", [paper_llava, image_base])
def test_equals_generate_with_a_pooling_projector(make: Callable[..., Any], tmp_path: Path) -> None:
    make(tmp_path, layers=4)
    model = load_paper_model(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    prompt = (
        "Watch. USER: <image>\n USER: Question: What?\nOptions:\n(A) left\n(B) right ASSISTANT:Best option:("
    )
    pixels = torch.randn(8, 3, 56, 56, generator=torch.Generator().manual_seed(0))
    by_hand = greedy_tokens(model, tokenizer(prompt, return_tensors="pt").input_ids[0], pixels, new_tokens=8)

    hook = model.model.multi_modal_projector.register_forward_hook(lambda module, args, out: _pool(out))
    inputs = tokenizer(prompt.replace("<image>", "<image>" * 32), return_tensors="pt")
    whole = model.generate(**inputs, pixel_values=pixels, max_new_tokens=8, do_sample=False)
    hook.remove()
    assert whole[0, inputs.input_ids.shape[1] :].tolist() == by_hand


def _pool(projected: torch.Tensor) -> torch.Tensor:
    """[frame, 16, hidden] to [frame, 4, hidden]."""
    rows = projected.unflatten(1, (2, 2, 2, 2))  # (row, within, column, within)
    return rows.mean(dim=(2, 4)).flatten(1, 2)
