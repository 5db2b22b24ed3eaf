"""Tokenizers of checkpoints that ship nothing but a SentencePiece file, as older uploads do."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from lmms_flow.model_wrappers.tokenizer import load_tokenizer
from tests.checkpoints import CORPUS

sentencepiece = pytest.importorskip("sentencepiece")

SIZE = 480
MARKS = ("<|assistant|>", "<|end|>", "<|user|>", "<img>", "</img>", "<IMG_CONTEXT>")
HUB = {"revision": "main", "trust_remote_code": False}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama-like SentencePiece model, and marks behind its pieces that swallow the white space after them."""
    folder = tmp_path_factory.mktemp("sentencepiece")
    (folder / "corpus.txt").write_text(CORPUS * 20)
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "corpus.txt"),
        model_prefix=str(folder / "tokenizer"),
        vocab_size=SIZE,
        model_type="bpe",
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        unk_id=0,
        bos_id=1,
        eos_id=2,
        pad_id=-1,
        minloglevel=2,
    )
    flags = {"lstrip": False, "normalized": False, "single_word": False, "special": True}
    added = {
        str(SIZE + place): {"content": mark, "rstrip": mark.startswith("<|"), **flags}
        for place, mark in enumerate(MARKS)
    }
    config = {
        "tokenizer_class": "LlamaTokenizer",
        "added_tokens_decoder": added,
        "add_bos_token": True,
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "legacy": True,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize(("kind", "by_files"), [("internvl_chat", True), ("llava", False)])
def test_a_sentencepiece_file_is_enough(kind: str, by_files: bool, folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps({"model_type": kind}))
    converter = sys.modules["transformers.convert_slow_tokenizer"]
    before = converter.import_protobuf
    tokenizer = load_tokenizer(str(folder), HUB, by_files)
    assert converter.import_protobuf is before
    model = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    text = "Question: What happened first?\nOptions:\n(A) The person opens it."
    assert tokenizer(text).input_ids == [1, *model.encode(text)]
    assert [tokenizer.convert_tokens_to_ids(mark) for mark in MARKS] == [SIZE + i for i in range(len(MARKS))]
    prompt = " <|user|>\n<img><IMG_CONTEXT></img>\n <|user|>\nQuestion"
    offsets = tokenizer(prompt, return_offsets_mapping=True)["offset_mapping"]
    assert prompt[offsets[-2][0] : offsets[-2][1]].startswith("Qu")
