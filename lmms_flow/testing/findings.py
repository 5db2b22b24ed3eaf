"""What a check found."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """One thing that was tried on a wrapper; `passed` is None where it could not be tried, and `detail` says why."""

    name: str
    passed: bool | None
    detail: str

    @property
    def verdict(self) -> str:
        """In a word."""
        return {True: "yes", False: "NO", None: "not tried"}[self.passed]


class NotTriedError(Exception):
    """A check does not apply to this wrapper; its text says why."""


class FailedError(Exception):
    """A check failed; its text says what was found."""


def require(holds: bool, what: str) -> None:
    """Raises FailedError with `what` unless it holds."""
    if not holds:
        raise FailedError(what)
