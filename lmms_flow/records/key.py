"""The key under which an answer is kept: a hash of everything that the answer depends on."""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections.abc import Mapping, Sequence
from datetime import date
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from lmms_flow.errors import MissingVideoError, SampleError

# Those whose code an answer passes through.
_PACKAGES = (
    "lmms-flow",
    "torch",
    "torchvision",
    "transformers",
    "tokenizers",
    "accelerate",
    "peft",
    "decord",
    "av",
    "torchcodec",
)
PIECE = 1 << 16  # bytes of a file that are hashed at its start, in its middle and at its end


def sample_key(
    *,
    task: str,
    document: Mapping[str, Any],
    prompt: str,
    videos: Sequence[Mapping[str, Any]],
    gen_kwargs: Mapping[str, Any],
    checkpoint: str,
    flow_digest: str,
    runtime: Mapping[str, Any],
    trace: str = "",
) -> str:
    """A SHA-256 in hex.

    Args:
        task: its name.
        document: all of its fields.
        prompt: the rendered prompt, as text.
        videos: for each its :func:`file_identity` and which frames are taken: number, sampling, clip bounds.
        gen_kwargs: the generation settings, with the seed of a sampled answer.
        checkpoint: name, revision and whatever tells two sets of weights apart.
        flow_digest: of the bound flow's meaning.
        runtime: engine, dtype, attention implementation, device type, :func:`package_versions`.
        trace: the settings of what is read out beside the answer; empty where nothing is.
    """
    return digest(
        {
            **({"trace": trace} if trace else {}),
            "task": task,
            "document": document,
            "prompt": prompt,
            "videos": list(videos),
            "gen_kwargs": gen_kwargs,
            "checkpoint": checkpoint,
            "flow": flow_digest,
            "runtime": runtime,
        }
    )


def file_identity(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Path, size in bytes, time of change in nanoseconds, and a hash of three pieces of the file.

    The hash tells a file from another that was put in its place with its size and time; a copy keeps it.
    Raises :class:`SampleError` where there is no file.
    """
    try:
        found = os.stat(path)
        pieces = _pieces(
            os.path.abspath(path), found.st_size, found.st_mtime_ns, found.st_ino, found.st_ctime_ns
        )
    except FileNotFoundError:
        raise MissingVideoError("the video is missing", path=path) from None
    except OSError as error:
        raise SampleError(f"the video can't be opened ({error.strerror})", path=path) from None
    return {
        "path": os.path.abspath(path),
        "size": found.st_size,
        "mtime_ns": found.st_mtime_ns,
        "pieces": pieces,
    }


def clip_digest(path: str | os.PathLike[str]) -> str:
    """A video's file by what is in it, wherever it lies. Raises :class:`SampleError` as :func:`file_identity` does."""
    identity = file_identity(path)
    return digest([identity["size"], identity["pieces"]])[:16]


@lru_cache(maxsize=100_000)
def _pieces(path: str, size: int, *changed: int) -> str:
    """A hash of a file's start, middle and end; read again when anything about the file changed."""
    hashed = hashlib.sha256()
    with open(path, "rb") as file:
        for start in sorted({0, max(0, (size - PIECE) // 2), max(0, size - PIECE)}):
            file.seek(start)
            hashed.update(file.read(PIECE))
    return hashed.hexdigest()


def package_versions() -> dict[str, str]:
    """Versions of the packages that an answer passes through."""
    return dict(_versions())


@lru_cache(maxsize=1)
def _versions() -> dict[str, str]:
    """Read once: what is loaded stays what it is, and to look for ten packages takes longer than a tiny answer."""
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = ""
    return versions


def digest(value: Any) -> str:
    """SHA-256 of a value in a form that doesn't depend on the order of keys or on the process."""
    text = json.dumps(_plain(value), sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, (set, frozenset)):
        return sorted(digest(item) for item in value)
    if isinstance(value, (bytes, bytearray)):
        return "bytes:" + hashlib.sha256(value).hexdigest()
    if isinstance(value, (date, os.PathLike)):
        return str(value)
    if hasattr(value, "tobytes"):  # numpy arrays and scalars, PIL images
        shape = getattr(value, "shape", None) or getattr(value, "size", None)
        return [type(value).__name__, str(shape), hashlib.sha256(value.tobytes()).hexdigest()]
    # Nothing is known about it, so it equals nothing: the sample is computed again rather than served stale.
    return f"{type(value).__name__}:{uuid.uuid4()}"
