"""What video libraries write to the standard error stream while they read: they go on over damage and only say so."""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path

import av

from lmms_flow.errors import one_line

# Said of files that play well.
HARMLESS = re.compile(
    r"swscaler|deprecated pixel format|auto_scale|Parsed_|no frame!|co located POCs|unref short failure"
    r"|Changing video frame properties|number of reference frames|Application provided invalid"
    r"|Could not update timestamps|rescue|libdav1d|Svt"
)
DAMAGE = re.compile(
    r"error|conceal|damag|corrupt|invalid|missing|exceeds|illegal|overread|overflow|failed|could not find ref|truncat",
    re.IGNORECASE,
)


class Complaints:
    """Collects what is written to file descriptor 2 of this process from now on: for a process that only reads."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - as long as the process
        self._seen = 0
        os.dup2(self._file.fileno(), 2)

    def forget(self) -> None:
        """Leaves out what was written until now."""
        self._seen = os.fstat(self._file.fileno()).st_size

    def of_damage(self) -> str:
        """The first line since the last call that tells of damage, without the address of who says it; empty: none."""
        end = os.fstat(self._file.fileno()).st_size
        if end <= self._seen:
            return ""
        text = os.pread(self._file.fileno(), min(end - self._seen, 1 << 16), self._seen).decode(
            errors="replace"
        )
        self._seen = end
        for line in re.split(r"[\r\n]+", text):
            if line.strip() and DAMAGE.search(line) and not HARMLESS.search(line):
                return one_line(re.sub(r" @ 0x[0-9a-f]+", "", line), limit=120)
        return ""


class NoComplaints(Complaints):
    """For a process that has other things to write."""

    def __init__(self) -> None:
        pass

    def forget(self) -> None:
        """Nothing was collected, so nothing is dropped."""

    def of_damage(self) -> str:
        """Empty: nothing was collected."""
        return ""


def write_errors() -> None:
    """Has PyAV's FFmpeg write its errors, and no more, to the standard error stream."""
    av.logging.set_libav_level(av.logging.ERROR)
    av.logging.restore_default_callback()


def in_short(error: BaseException, file: Path, limit: int = 80) -> str:
    """The first line of what a library says, without its source file, the time and our own path."""
    detail = str(error).strip().partition("\n")[0] or type(error).__name__
    detail = detail.replace(f"[{file}]", "")
    detail = re.sub(r"\[\d\d:\d\d:\d\d\] \S+?:\d+: |^\[Errno \d+\] |: '[^']*'$", "", detail)
    return one_line(detail, limit=limit)
