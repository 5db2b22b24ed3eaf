"""What a user is told: one parent, and a kind for each thing that can be wrong.

A flow, a model, a sample, a run, results that are compared. Each message is one line: what is wrong, where, and what to
write instead. Nothing of this package is imported here.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable

LONGEST = 2000  # characters of an error: it quotes what was written, and that may be a megabyte


class UserError(BaseException):
    """The parent of every error that is told in one line; where it would quote too much the middle is left out.

    All but `RunError` are exceptions of the usual kind; that one ends the program, so it must not be an `Exception`.
    """

    def __init__(self, *told: object) -> None:
        super().__init__(*(_told(each) if isinstance(each, str) else each for each in told))


class FlowError(UserError, ValueError):
    """A flow, layer range or layout that cannot mean anything; one line that says what to write instead."""


class UnsupportedModelError(UserError, ValueError):
    """A model or an attention implementation in which a cut would not be applied, named in the message."""


class CheckpointError(UserError, ValueError):
    """A checkpoint, adapter or tokenizer that is not what a model needs."""


class ReportError(UserError, ValueError):
    """Results that can't be compared."""


class RecordError(UserError, ValueError):
    """A record or a line of a journal that this version can't read: file, line, what was found, what was expected."""


class SampleError(UserError, Exception):
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


# What keeps a sample from being answered and says so in its own line; the other samples go on.
SAMPLE_FAILURES = (SampleError, FlowError, UnsupportedModelError)


def _printed(path: str) -> str:
    """On one line, whatever a file is called."""
    return path if path.isprintable() else repr(path)


def _rebuild(kind: type[SampleError], reason: str, path: str | None) -> SampleError:
    return kind(reason, path=path)


class RunError(UserError, SystemExit):
    """Ends the run with exit status 1 and one line on stderr.

    It is a ``SystemExit`` because lmms-eval turns every ``Exception`` into exit status 0. Python prints the
    line itself when nobody catches it.
    """

    def __init__(self, line: str) -> None:
        super().__init__("lmms_flow: " + one_line(line, limit=1000))

    def __str__(self) -> str:
        return str(self.code)


def nearest(word: str, valid: Iterable[str]) -> str:
    """`"; did you mean 'x'?"` for the valid word closest to `word`, or an empty string where none is close."""
    if len(word) > 100:  # none of ours is half as long, and comparing takes its time
        return ""
    written = {each.lower(): each for each in valid}
    close = difflib.get_close_matches(word.lower(), list(written), n=1, cutoff=0.5)
    return f"; did you mean {written[close[0]]!r}?" if close else ""


def _told(line: str) -> str:
    """A line that a terminal can show: what is wrong stands in front, what to write instead at the end.

    Names of files and what somebody wrote are quoted in it. Line breaks and terminal escapes in them are
    shown, not done.
    """
    if len(line) > LONGEST:
        line = f"{line[: LONGEST * 3 // 4]} … {line[-LONGEST // 5 :]}"
    return line if line.isprintable() else "".join(map(_shown, line))


def _shown(character: str) -> str:
    return character if character.isprintable() else character.encode("unicode_escape").decode()


def one_line(text: object, limit: int = 500) -> str:
    """``text`` on one line, cut to ``limit`` characters: an error is read in a log, between other lines."""
    line = " ".join(str(text).split())
    return line if len(line) <= limit else line[: limit - 1] + "…"
