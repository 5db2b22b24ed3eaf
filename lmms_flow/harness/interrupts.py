"""Ctrl-C and SIGTERM: one line that says what is kept, and the status that a shell expects of them."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


class Stopped(KeyboardInterrupt):
    """A signal that ends the program; like Ctrl-C it is no `Exception`, so that nothing on the way swallows it."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


@contextmanager
def told_in_one_line(line: Callable[[], str], *, tell: bool = True) -> Iterator[None]:
    """Ends the program with 130 (Ctrl-C) or 143 (SIGTERM) and one line on stderr where one of them comes inside.

    Args:
        line: says what becomes of the run; asked for when it has ended.
        tell: whether this process prints it: of several, one does.
    """
    with _terminated():
        try:
            yield
        except KeyboardInterrupt as stop:
            number = stop.number if isinstance(stop, Stopped) else signal.SIGINT
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second one would print a traceback over the line
            if tell:
                print(
                    f"lmms_flow: stopped by {signal.Signals(number).name}: {line()}",
                    file=sys.stderr,
                    flush=True,
                )
            raise SystemExit(128 + number) from None


@contextmanager
def _terminated() -> Iterator[None]:
    """Inside the block SIGTERM is raised like Ctrl-C; only the main thread may ask for that."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: Any) -> None:
        raise Stopped(number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before if before is not None else signal.SIG_DFL)
