"""The journal: every answered sample on disk, at once, so that a killed run goes on where it was.

An append-only JSONL file a task and process, one line a sample. The key of a line is a hash of everything
that the answer depends on, so that nothing stale is ever served: what is not found is computed again.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
from collections.abc import Container, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, ClassVar

from loguru import logger

from lmms_flow.errors import RecordError, RunError
from lmms_flow.records.arrays import Arrays, are_whole, place_of, write_arrays
from lmms_flow.records.record import FORMAT, REMEDY, SampleRecord, checked_format, fits

try:
    import fcntl
except ImportError:  # not on Windows; there two runs must not share a folder
    fcntl = None  # type: ignore[assignment]


@dataclass(frozen=True)
class JournalLine:
    """One line of a journal: an answered sample, the key under which it is found again, and when it was written."""

    key: str
    time: float  # seconds since 1970
    record: SampleRecord

    format: ClassVar[int] = FORMAT

    def to_bytes(self) -> bytes:
        """A line of JSON in ASCII: half a surrogate pair in an answer can't stop the run."""
        values = {"format": self.format, "key": self.key, "time": self.time, "record": self.record.to_dict()}
        return json.dumps(values).encode() + b"\n"

    @classmethod
    def from_dict(cls, values: object, where: str) -> JournalLine:
        """Raises RecordError, which begins with `where`, for another format and for a line that lacks something."""
        given = checked_format(values, where, "line of the journal")
        for name, kind, told in (("key", str, "text"), ("time", float, "a number")):
            if not fits(given.get(name), kind):
                raise RecordError(f"{where}: its {name} is {given.get(name)!r}, not {told}; {REMEDY}")
        return cls(given["key"], float(given["time"]), SampleRecord.from_dict(given.get("record"), where))


class Journal:
    """The journal in ``folder``; several runs, arms and processes may share it.

    Each process appends to files of its own and reads all of them once, when it starts.

    Args:
        folder: made when it is missing.
        rank: of this process in a distributed run.

    Raises:
        RunError: the folder can't be written, what another version wrote lies in it, or (later) the disk is full.
    """

    def __init__(self, folder: str | os.PathLike[str], *, rank: int = 0) -> None:
        self.folder = Path(folder).expanduser().absolute()
        self.rank = rank
        self.written = 0
        self._answers: dict[str, SampleRecord] = {}
        self._flows: dict[tuple[str, int], dict[str, str]] = {}  # (task, doc_id) -> {digest: flow as written}
        self._files: dict[str, IO[bytes]] = {}
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._probe()
            self._read()
        except OSError as error:
            raise RunError(f"can't keep a journal in {self.folder}: {error.strerror or error}") from None
        except RecordError as error:
            raise RunError(f"{error}, or name another folder with records=FOLDER") from None

    def find(self, key: str) -> SampleRecord | None:
        """The answer that was given to the sample of this key; only ``ok`` ones, errors are tried again.

        A traced sample whose arrays are not there any more, or not whole, is none.
        """
        found = self._answers.get(key)
        if found is not None and found.arrays and not are_whole(self.folder, found):
            logger.warning(
                f"{self.folder / found.arrays} is missing or damaged: task {found.task}, document {found.doc_id} is "
                "traced again"
            )
            return None
        return found

    def held(self, tasks: Container[str]) -> int:
        """How many answers to these tasks are kept, whatever they depend on."""
        return sum(record.task in tasks for record in self._answers.values())

    def other_flows(self, task: str, doc_id: int, digest: str) -> dict[str, str]:
        """The flows but this one under which a document was answered: ``{digest: flow as it was written}``."""
        found = self._flows.get((task, doc_id), {})
        return {other: flow for other, flow in found.items() if other != digest}

    def write(self, key: str, record: SampleRecord, arrays: Arrays | None = None) -> SampleRecord:
        """Appends one line and returns when it is on the disk, what a trace read out before it.

        Returns the record as it was written: with the place and the shapes of its arrays.
        """
        name = slug(record.task)
        try:
            if name not in self._files:
                self._files[name] = self._open(name)
            if arrays is not None:
                record = replace(record, arrays=place_of(name, slug(key)), shapes=arrays.shapes)
                # Locked like the file whose name it has, and written over by the run that goes on after a kill.
                part = Path(self._files[name].name).with_suffix(".part").name
                write_arrays(self.folder, record.arrays, arrays, part)
            _append(self._files[name], JournalLine(key, round(time.time(), 3), record).to_bytes())
        except OSError as error:
            raise RunError(
                f"can't write the journal in {self.folder}: {error.strerror or error}; "
                f"the {self.written} answers written before are kept"
            ) from None
        self.written += 1
        self._remember(key, record)
        return record

    def close(self) -> None:
        """Closes the files and gives up their locks."""
        for file in self._files.values():
            file.close()
        self._files.clear()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _remember(self, key: str, record: SampleRecord) -> None:
        if record.status == "ok":
            self._answers[key] = record
            self._flows.setdefault((record.task, record.doc_id), {})[record.flow_digest] = record.flow

    def _probe(self) -> None:
        """Fails now, and not after the model is loaded, where the folder can't be written."""
        probe = self.folder / f".probe-{os.getpid()}"
        probe.touch()
        probe.unlink()

    def _read(self) -> None:
        damaged = 0
        for line in read_lines(self.folder):
            if line is None:
                damaged += 1
            else:
                self._remember(line.key, line.record)
        if damaged:
            logger.warning(f"{damaged} damaged lines in the journal {self.folder} are left out")

    def _open(self, name: str) -> IO[bytes]:
        """A file of this process alone: the next free one where another run holds the first."""
        for attempt in range(1000):
            suffix = f"-{attempt}" if attempt else ""
            file = (self.folder / f"{name}.rank{self.rank}{suffix}.jsonl").open("ab", buffering=0)
            if _lock(file):
                _cut_torn_line(file)
                return file
            file.close()
        raise OSError("a thousand other runs write here")


def slug(name: str) -> str:
    """``name`` as a file name that can't leave its folder."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-")[:100] or "task"


def read_journal(folder: str | os.PathLike[str]) -> list[SampleRecord]:
    """All records in a folder, errors included, as they were written, file after file. Raises RecordError."""
    return [line.record for line in read_lines(folder) if line is not None]


def read_lines(folder: str | os.PathLike[str]) -> Iterator[JournalLine | None]:
    """The lines of all files in a folder, None for a damaged one (not JSON).

    A last line without its newline is left out: the process was killed while it wrote, or is still writing. Raises
    RecordError with file and line for what another version wrote, and for JSON that is no line of a journal.
    """
    for path in sorted(Path(folder).glob("*.jsonl")):
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if not line.endswith(b"\n"):
                    continue
                try:
                    values = json.loads(line)
                except (ValueError, RecursionError):
                    yield None
                else:
                    yield JournalLine.from_dict(values, f"{path}, line {number}")


def _append(file: IO[bytes], data: bytes) -> None:
    """Writes all of ``data`` or nothing."""
    start = os.fstat(file.fileno()).st_size
    try:
        done = 0
        while done < len(data):
            done += os.write(file.fileno(), data[done:])
        os.fsync(file.fileno())
    except OSError:
        with contextlib.suppress(OSError):
            os.ftruncate(file.fileno(), start)
        raise


def _lock(file: IO[bytes]) -> bool:
    """False where another process holds the file; the lock goes with the process, also a killed one."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # some network file systems have no locks
        return True
    return True


def _cut_torn_line(file: IO[bytes]) -> None:
    """Ends the file at its last newline, so that the next line doesn't grow out of half a one."""
    end = os.fstat(file.fileno()).st_size
    with open(file.name, "rb") as reader:
        while end:
            start = max(0, end - 65536)
            reader.seek(start)
            newline = reader.read(end - start).rfind(b"\n")
            if newline >= 0:
                end = start + newline + 1
                break
            end = start
    os.ftruncate(file.fileno(), end)
