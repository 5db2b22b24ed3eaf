"""The arrays of a traced sample: one safetensors file, beside the journal whose line names it.

A file is written whole or not at all: under another name, flushed to the disk, and then renamed. What is known about
its axes stands in its metadata, as JSON under the one key `trace`: with several keys the bytes of two equal files would
differ.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from lmms_flow.errors import RecordError
from lmms_flow.records.record import SampleRecord

if TYPE_CHECKING:
    import numpy as np

FOLDER = "arrays"
ABOUT = "trace"  # the key of the metadata
REMEDY = "delete it and run again"
_DTYPES = ("F16", "F32", "F64", "I32", "I64", "U8", "BOOL")


@dataclass(frozen=True, eq=False)
class Arrays:
    """Named arrays of one sample, and what is known about their axes (what JSON can say)."""

    values: Mapping[str, np.ndarray] = field(default_factory=dict)
    about: Mapping[str, Any] = field(default_factory=dict)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of each, by its name."""
        return {name: tuple(map(int, value.shape)) for name, value in sorted(self.values.items())}

    def to_bytes(self) -> bytes:
        """The file's contents, the same for the same arrays."""
        import numpy as np
        from safetensors.numpy import save

        whole = {name: np.ascontiguousarray(value) for name, value in sorted(self.values.items())}
        return save(whole, {ABOUT: json.dumps(self.about, sort_keys=True)})


def place_of(task: str, key: str) -> str:
    """Where the arrays of a sample lie in the records' folder; `task` is a file name already."""
    return f"{FOLDER}/{task}/{key}.safetensors"


def write_arrays(folder: Path, place: str, arrays: Arrays, part: str) -> None:
    """Writes the file and returns when it is on the disk. Raises OSError, and then nothing of it is left.

    Args:
        folder: of the records.
        place: in it, from `place_of`.
        arrays: what is written.
        part: a file name that no other process writes to at the same time.
    """
    path = folder / place
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.parent / part
    try:
        with unfinished.open("wb") as file:
            file.write(arrays.to_bytes())
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    except OSError:
        with contextlib.suppress(OSError):
            unfinished.unlink()
        raise
    _sync_folder(path.parent)


def read_arrays(folder: str | os.PathLike[str], record: SampleRecord) -> Arrays:
    """The arrays of a record in the folder of its journal.

    Raises RecordError with the file where it is missing or damaged, or holds other arrays than the record names.
    """
    from safetensors import SafetensorError, safe_open

    path = _path(folder, record)
    try:
        with safe_open(path, framework="numpy") as file:
            about = json.loads((file.metadata() or {}).get(ABOUT, ""))
            arrays = Arrays({name: file.get_tensor(name) for name in file.keys()}, about)  # noqa: SIM118
    except FileNotFoundError:
        raise RecordError(f"{path}: the arrays of {_named(record)} are gone; run it again") from None
    except (OSError, SafetensorError, ValueError, RecursionError) as error:
        raise RecordError(f"{path}: the arrays can't be read ({error}); {REMEDY}") from None
    if not isinstance(about, dict):
        raise RecordError(f"{path}: the file does not say what its arrays are; {REMEDY}")
    if arrays.shapes != dict(record.shapes):
        raise RecordError(
            f"{path}: it holds {_listed(arrays.shapes)}, and its record names {_listed(record.shapes)}; {REMEDY}"
        )
    return arrays


def are_whole(folder: str | os.PathLike[str], record: SampleRecord) -> bool:
    """Whether the file of a record is there with all of its arrays. Only its head is read."""
    try:
        path = _path(folder, record)
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            size = os.fstat(file.fileno()).st_size
            head = json.loads(file.read(length)) if length < size else None
        if not isinstance(head, dict) or ABOUT not in (head.pop("__metadata__", None) or {}):
            return False
        shapes = {name: tuple(entry["shape"]) for name, entry in head.items()}
        known = all(entry["dtype"] in _DTYPES for entry in head.values())
        ends = max((entry["data_offsets"][1] for entry in head.values()), default=0)
        return known and shapes == dict(record.shapes) and 8 + length + int(ends) == size
    except (RecordError, OSError, ValueError, KeyError, TypeError, IndexError, RecursionError):
        return False


def _path(folder: str | os.PathLike[str], record: SampleRecord) -> Path:
    """Where the file lies. Raises RecordError for a place outside of the arrays' folder."""
    place = PurePosixPath(record.arrays)
    parts = place.parts
    if place.is_absolute() or len(parts) != 3 or parts[0] != FOLDER or ".." in parts or "\\" in record.arrays:
        raise RecordError(
            f"{folder}: the record of {_named(record)} names the arrays {record.arrays!r}, which is no place in the "
            f"folder {FOLDER}; delete the record's file and run again"
        )
    path = Path(folder) / place
    if path.suffix != ".safetensors" or not path.resolve().is_relative_to(_root(folder)):
        raise RecordError(f"{path}: the arrays of {_named(record)} lie outside of their folder; {REMEDY}")
    return path


def _root(folder: str | os.PathLike[str]) -> Path:
    return (Path(folder) / FOLDER).resolve()


def _named(record: SampleRecord) -> str:
    return f"task {record.task}, document {record.doc_id}"


def _listed(shapes: Mapping[str, tuple[int, ...]]) -> str:
    return ", ".join(f"{name} {list(shape)}" for name, shape in sorted(shapes.items())) or "nothing"


def _sync_folder(folder: Path) -> None:
    """Puts the new name on the disk too, where the system lets a folder be opened."""
    with contextlib.suppress(OSError):
        opened = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)
