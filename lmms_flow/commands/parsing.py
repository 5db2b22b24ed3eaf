"""A parser that names the nearest command, option or choice where one is misspelt."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from typing import NoReturn

from ..errors import nearest


class Parser(argparse.ArgumentParser):
    """argparse's own, whose error is one line with the nearest valid word."""

    def error(self, message: str) -> NoReturn:
        """Ends with status 2 and one line."""
        self.exit(2, f"{self.prog}: {self._near(message)} ({self.prog} --help lists what there is)\n")

    def _near(self, message: str) -> str:
        choice = re.search(r"invalid choice: '([^']*)'", message)
        if choice:
            names = list(self._choices())
            return f"there is no {choice[1]!r}{nearest(choice[1], names)} (there is {', '.join(names)})"
        unknown = re.search(r"unrecognized arguments: (\S+)", message)
        if unknown:
            word = unknown[1].partition("=")[0]
            options = [one for action in self._actions for one in action.option_strings]
            return f"there is no argument {word!r}{nearest(word, options) if word.startswith('-') else ''}"
        return message

    def _choices(self) -> Iterator[str]:
        for action in self._actions:
            if action.choices is not None:
                yield from map(str, action.choices)

    def parse_args(self, args=None, namespace=None):  # type: ignore[no-untyped-def]
        """As argparse does; an unknown argument is told by the command that it was given to."""
        found, unknown = self.parse_known_args(args, namespace)
        if unknown:
            command = self._command(getattr(found, "command", None))
            command.error(f"unrecognized arguments: {' '.join(unknown)}")
        return found

    def _command(self, name: str | None) -> argparse.ArgumentParser:
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction) and name in action.choices:
                return action.choices[name]  # type: ignore[no-any-return]
        return self
