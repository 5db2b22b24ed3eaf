"""The two ways in which a run can go wrong: one sample fails, or the run ends."""

from __future__ import annotations

import os


def one_line(text: object, limit: int = 500) -> str:
    """``text`` on one line, cut to ``limit`` characters: an error is read in a log, between other lines."""
    line = " ".join(str(text).split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


class SampleError(Exception):
    """One sample can't be answered; the others can.

    ``reason`` says what is wrong in one line, ``path`` is the file that it is wrong with.
    """

    is_skip = False  # whether the sample is left out on purpose, which is no failure

    def __init__(self, reason: str, *, path: str | os.PathLike[str] | None = None) -> None:
        self.reason = one_line(reason)
        self.path = None if path is None else os.fspath(path)
        super().__init__(": ".join([self.reason, *([] if self.path is None else [_printed(self.path)])]))

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), self.reason, self.path))


class SkippedSampleError(SampleError):
    """A sample that does not apply: an arm that the model has not, a clip that its data set does not hand out."""

    is_skip = True


class MissingVideoError(SampleError):
    """The video's file is not there."""


def _printed(path: str) -> str:
    """On one line, whatever a file is called."""
    return path if path.isprintable() else repr(path)


def _rebuild(kind: type[SampleError], reason: str, path: str | None) -> SampleError:
    return kind(reason, path=path)


class RunError(SystemExit):
    """Ends the run with exit status 1 and one line on stderr.

    It is a ``SystemExit`` because lmms-eval turns every ``Exception`` into exit status 0. Python prints the
    line itself when nobody catches it.
    """

    def __init__(self, line: str) -> None:
        super().__init__("lmms_flow: " + one_line(line, limit=1000))

    def __str__(self) -> str:
        return str(self.code)
