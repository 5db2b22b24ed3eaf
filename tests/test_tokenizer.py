"""Tokenizers of checkpoints that ship nothing but a SentencePiece file, as older uploads do."""

from __future__ import annotations

import json
import random
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import transformers
from packaging.version import Version

from lmms_flow.errors import CheckpointError
from lmms_flow.inputs import tokenizer as reading
from lmms_flow.inputs.tokenizer import load_tokenizer
from tests.support.checkpoints import CORPUS

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


# Pieces that are merged in the order of their scores

SPACES = [("\u2581" * count, -place - 0.5) for place, count in enumerate((2, 4, 8, 3, 6, 5, 7, 16))]


def with_pieces(folder: Path, to: Path, more: list[tuple[str, float]]) -> Path:
    """The same with further pieces, whose ids are the last and whose scores are not."""
    shutil.copytree(folder, to)
    with reading._readable_sentencepiece():
        proto = reading._converter.SentencePieceExtractor(str(to / "tokenizer.model")).proto
    for piece, score in more:
        proto.pieces.add(piece=piece, score=score)
    (to / "tokenizer.model").write_bytes(proto.SerializeToString())
    config = json.loads((to / "tokenizer_config.json").read_text())
    del config["added_tokens_decoder"]
    (to / "tokenizer_config.json").write_text(json.dumps(config))
    (to / "config.json").write_text(json.dumps({"model_type": "llava"}))
    return to


def fuzzed(count: int) -> list[str]:
    """Words of the corpus with runs of spaces, marks and line breaks between them."""
    words = [*CORPUS.split(), "(A)", "Best", ":(", "zq", "é", "你"]
    between = [" ", "  ", "   ", "     ", "\n", " \n", ", ", "", "         "]
    source = random.Random(5)
    return [
        "".join(source.choice(words) + source.choice(between) for _ in range(source.randint(1, 9)))
        for _ in range(count)
    ]


@pytest.fixture(scope="module")
def spaced(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return with_pieces(folder, tmp_path_factory.mktemp("spaced") / "model", SPACES)


@pytest.mark.parametrize("by_files", [True, False])
def test_runs_of_spaces_are_split_as_sentencepiece_splits_them(by_files: bool, spaced: Path) -> None:
    model = sentencepiece.SentencePieceProcessor(model_file=str(spaced / "tokenizer.model"))
    tokenizer = load_tokenizer(str(spaced), HUB, by_files)
    for text in fuzzed(2000):
        assert tokenizer(text, add_special_tokens=False).input_ids == model.encode(text), text


def test_merges_in_another_order_are_noticed(spaced: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "_as_sentencepiece", lambda *given: None)
    with pytest.raises(
        CheckpointError, match=r"tokenizer.model can't be read as SentencePiece reads it: .* tokenizer.json"
    ):
        load_tokenizer(str(spaced), HUB)


def test_a_unigram_model_has_no_merges(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "corpus.txt").write_text(CORPUS * 20)
    arguments: dict[str, Any] = {"model_type": "unigram", "byte_fallback": True, "minloglevel": 2}
    sentencepiece.SentencePieceTrainer.train(
        input=str(tmp_path / "corpus.txt"),
        model_prefix=str(tmp_path / "tokenizer"),
        vocab_size=360,
        normalization_rule_name="identity",
        **arguments,
    )
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"})
    )
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "internvl_chat"}))
    if Version(transformers.__version__) < Version("5.24"):  # it reads such a file in another way
        with pytest.raises(CheckpointError, match="is split otherwise"):
            load_tokenizer(str(tmp_path), HUB, by_files=True)
        return
    tokenizer = load_tokenizer(str(tmp_path), HUB, by_files=True)
    model = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "tokenizer.model"))
    for text in fuzzed(50):
        assert tokenizer(text, add_special_tokens=False).input_ids == model.encode(text), text
