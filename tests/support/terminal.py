"""Commands of ours as a user sees them: in a pseudo-terminal of so many columns of text."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import sys
import termios
from collections.abc import Callable

from rich.cells import cell_len

_SIGNS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")  # colours, cursor


def in_terminal(do: Callable[[], int | None], columns: int = 80) -> tuple[int, str]:
    """Calls `do` in a process of its own whose terminal has so many columns; its status and what it printed.

    The process is a copy of this one, so that nothing has to be imported again.
    """
    child, terminal = pty.fork()
    if child == 0:  # pragma: no cover  (in another process)
        status = 70
        try:
            fcntl.ioctl(1, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
            for name in ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR"):
                os.environ.pop(name, None)
            os.environ["TERM"] = "xterm"
            sys.stdin, sys.stdout, sys.stderr = os.fdopen(0), os.fdopen(1, "w"), os.fdopen(2, "w")
            status = do() or 0
        except SystemExit as stop:
            status = stop.code if isinstance(stop.code, int) else 1
        except BaseException as error:
            sys.stderr.write(f"{type(error).__name__}: {error}\n")
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    written = b""
    while True:
        try:
            part = os.read(terminal, 1 << 16)
        except OSError:  # Linux's way to say that the other end is closed
            break
        if not part:
            break
        written += part
    os.close(terminal)
    _, status = os.waitpid(child, 0)
    text = _SIGNS.sub("", written.decode()).replace("\r\n", "\n")
    return os.waitstatus_to_exitcode(status), text


def widest(text: str) -> int:
    """Columns of text that the longest line takes."""
    return max(map(cell_len, (line.rstrip() for line in text.splitlines())), default=0)
