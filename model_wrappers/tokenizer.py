"""Loads tokenizers, those of checkpoints that ship nothing but a SentencePiece file among them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from transformers import AutoTokenizer, PreTrainedConfig
from transformers.utils import cached_file

# Not by `from transformers import`: there a function has the same name.
_converter: Any = import_module("transformers.convert_slow_tokenizer")


def load_tokenizer(source: str, hub: Mapping[str, Any], by_files: bool = False) -> Any:
    """The tokenizer of a repository or folder.

    `by_files` leaves config.json out, which in a released layout only released code can read. So it is for a checkpoint
    without tokenizer.json: by the model's type transformers would read its SentencePiece file in another way.
    """
    by_files = by_files or not _has_file(source, "tokenizer.json", hub["revision"])
    config = {"config": PreTrainedConfig()} if by_files else {}
    with _readable_sentencepiece():
        return AutoTokenizer.from_pretrained(source, **hub, **config)


def _has_file(source: str, name: str, revision: str) -> bool:
    missing = {"_raise_exceptions_for_missing_entries": False}
    return cached_file(source, name, revision=revision, **missing) is not None


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
