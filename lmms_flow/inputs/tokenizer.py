"""Loads tokenizers, those of checkpoints that ship nothing but a SentencePiece file among them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedConfig
from transformers.utils import cached_file

from lmms_flow.errors import CheckpointError

# Not by `from transformers import`: there a function has the same name.
_converter: Any = import_module("transformers.convert_slow_tokenizer")
PIECES = "tokenizer.model"  # what SentencePiece writes
NORMAL = 1  # the type of a piece that SentencePiece merges others into
# A space in front of every text, as transformers writes it, and as Llama's own tokenizer.json does.
EVERY_TEXT = {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always", "split": False}
EVERY_TEXT_LEGACY = {
    "type": "Sequence",
    "normalizers": [
        {"type": "Prepend", "prepend": "\u2581"},
        {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"},
    ],
}
# Texts that tell whether pieces are merged in SentencePiece's order: runs of spaces and rare words do.
PROBES = (
    "Question: Which way does it move?\nOptions:\n(A) From left to right.\n(B) From right to left.",
    "Carefully watch the video and pay attention to the cause and sequence of events",
    " \nOnly give the best option. ASSISTANT:Best option:(",
    "a  b   c    d     e      f       g        h",
    "  two   spaces  and  more    ",
    "unbelievably 3.14159 co-operative e-mail's (x) [y] {z} <w> 2,048",
    "ABCDEFGHIJ abcdefghij zyxwvutsrq ßéñ 你好 🙂",
    "mississippi banana aaaa aaaaa aaaaaaaa hahahaha ....... -----",
)


def load_tokenizer(source: str, hub: Mapping[str, Any], by_files: bool = False) -> Any:
    """The tokenizer of a repository or folder.

    `by_files` leaves config.json out, which in its original form only its own code can read. So it is for a checkpoint
    without tokenizer.json: by the model's type transformers would read its SentencePiece file in another way. Raises
    CheckpointError where what was read of such a file splits texts otherwise than SentencePiece does.
    """
    alone = _file(source, "tokenizer.json", hub["revision"]) is None
    config = {"config": PreTrainedConfig()} if by_files or alone else {}
    with _readable_sentencepiece():
        tokenizer = AutoTokenizer.from_pretrained(source, **hub, **config)  # the user's revision  # nosec B615
        pieces = _file(source, PIECES, hub["revision"]) if alone else None
        if pieces is not None:
            _as_sentencepiece(tokenizer, pieces)
    if pieces is not None:
        _check(tokenizer, pieces)
    return tokenizer


def _file(source: str, name: str, revision: str) -> str | None:
    missing = {"_raise_exceptions_for_missing_entries": False}
    found: str | None = cached_file(source, name, revision=revision, **missing)
    return found


def _as_sentencepiece(tokenizer: Any, pieces: str) -> None:
    """Puts the merges into SentencePiece's order, and its space in front of every text.

    The piece of the highest score is merged first, of equal ones the first. transformers orders them by the pieces'
    ids, which is another order in runs of spaces, and puts no space in front of a text that begins with one.
    """
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    if backend["model"]["type"] != "BPE":
        return
    proto = _converter.SentencePieceExtractor(pieces).proto
    normal = {one.piece: (-one.score, place) for place, one in enumerate(proto.pieces) if one.type == NORMAL}
    ranked = sorted(
        (*rank, piece[:cut], piece[cut:])
        for piece, rank in normal.items()
        for cut in range(1, len(piece))
        if piece[:cut] in normal and piece[cut:] in normal
    )
    backend["model"]["merges"] = [[left, right] for *_, left, right in ranked]
    if backend["normalizer"] is None and backend["pre_tokenizer"] == EVERY_TEXT:
        backend |= {"normalizer": EVERY_TEXT_LEGACY, "pre_tokenizer": None}
    tokenizer._tokenizer = Tokenizer.from_str(json.dumps(backend))


def _check(tokenizer: Any, pieces: str) -> None:
    import sentencepiece

    reference = sentencepiece.SentencePieceProcessor(model_file=pieces)
    for text in PROBES:
        if tokenizer(text, add_special_tokens=False)["input_ids"] != reference.encode(text):
            raise CheckpointError(
                f"{pieces} can't be read as SentencePiece reads it: {text[:30]!r} is split otherwise; save the "
                "tokenizer as tokenizer.json (save_pretrained of the transformers version that it was made with)"
            )


@contextmanager
def _readable_sentencepiece() -> Iterator[None]:
    """Inside the block, transformers reads SentencePiece files by the description of them that it ships itself.

    It prefers that of the package `sentencepiece`, which is made for a later protobuf than lmms-eval's other
    requirements allow; without this the file would be taken for one of another kind.
    """
    try:
        from sentencepiece import sentencepiece_model_pb2  # noqa: F401
    except Exception:  # protobuf's complaint is of a type of its own
        preferred = _converter.import_protobuf
        _converter.import_protobuf = _shipped_description
        try:
            yield
        finally:
            _converter.import_protobuf = preferred
    else:
        yield


def _shipped_description(error_message: str = "") -> Any:
    from transformers.utils import sentencepiece_model_pb2_new

    return sentencepiece_model_pb2_new
