"""Checkpoints in the published layouts load into transformers' own classes, every weight in its place."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from tests.support.checkpoints import image_base, llama_tokenizer, next_video, paper_llava

# Where transformers 5 keeps what the published files name otherwise.
RENAMED = [
    (r"^language_model\.lm_head\.", "lm_head."),
    (r"^language_model\.model\.", "model.language_model."),
    (r"^vision_tower\.vision_model\.", "model.vision_tower."),
    (r"^multi_modal_projector\.", "model.multi_modal_projector."),
    (r"^image_newline$", "model.image_newline"),
]


@pytest.mark.parametrize(
    ("make", "class_name"),
    [
        (paper_llava, "LlavaForConditionalGeneration"),
        (image_base, "LlavaNextForConditionalGeneration"),
        (next_video, "LlavaNextVideoForConditionalGeneration"),
    ],
)
@pytest.mark.parametrize("shards", [1, 3])
def test_every_weight_arrives(make: Callable[..., Any], class_name: str, shards: int, tmp_path: Path) -> None:
    written = make(tmp_path, layers=2, shards=shards)
    model, report = getattr(transformers, class_name).from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values()), report
    loaded = model.state_dict()
    assert {_renamed(name) for name in written} == set(loaded)  # so none was left as it was initialised
    unequal = [name for name, values in written.items() if not torch.equal(loaded[_renamed(name)], values)]
    assert unequal == []


def test_image_base_loads_as_the_papers_class(tmp_path: Path) -> None:
    """The paper runs its image-only base through the pooled path; only the newline weight is left over."""
    written = image_base(tmp_path, layers=2)
    values = transformers.LlavaNextConfig.from_pretrained(tmp_path).to_dict() | {"model_type": "llava"}
    config = transformers.LlavaConfig.from_dict(values)
    model, report = transformers.LlavaForConditionalGeneration.from_pretrained(
        tmp_path, config=config, output_loading_info=True
    )
    assert report.pop("unexpected_keys") == {"image_newline"}
    assert not any(report.values()), report
    head = written["language_model.lm_head.weight"]
    assert torch.equal(model.lm_head.weight, head)


@pytest.mark.parametrize("make", [paper_llava, image_base, next_video])
def test_processor_and_model_agree(make: Callable[..., Any], tmp_path: Path) -> None:
    make(tmp_path, layers=2)
    processor = transformers.AutoProcessor.from_pretrained(tmp_path)
    config = transformers.AutoConfig.from_pretrained(tmp_path)
    assert processor.image_token_id == config.image_token_index
    assert len(processor.tokenizer) <= config.text_config.vocab_size


def test_without_processor_files_there_is_only_a_tokenizer(tmp_path: Path) -> None:
    paper_llava(tmp_path, layers=2, processor=False)
    assert transformers.AutoTokenizer.from_pretrained(tmp_path).chat_template is None
    with pytest.raises(OSError, match="image processor"):
        transformers.AutoProcessor.from_pretrained(tmp_path)


def test_tokenizer_has_llamas_traits() -> None:
    tokenizer = llama_tokenizer("<image>")
    text = "USER: <image>\n USER: Question: What?\nOptions:\n(A) left ASSISTANT:Best option:("
    tokens = tokenizer.encode(text).tokens
    assert tokens[0] == "<s>"
    assert tokens[-1] == ":("
    assert tokens[tokens.index("<image>") + 1 :][:2] == [
        "▁",
        "<0x0A>",
    ]  # the normaliser starts anew behind it
    assert tokenizer.encode(text + "B").tokens == [*tokens, "B"]  # the letter that an answer begins with
    assert (
        tokenizer.encode("A or B", add_special_tokens=False).tokens[-1] == "▁B"
    )  # and the one inside a text
    covered = {index for start, end in tokenizer.encode(text).offsets for index in range(start, end)}
    assert covered == set(range(len(text)))


def _renamed(name: str) -> str:
    for pattern, target in RENAMED:
        name = re.sub(pattern, target, name)
    return name
