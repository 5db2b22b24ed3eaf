"""What programs read of our commands: `--json`. Everything else that a command says goes to stderr meanwhile."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Iterator
from typing import Any


def add_json(command: argparse.ArgumentParser) -> None:
    """Adds `--json` to a command."""
    command.add_argument(
        "--json", action="store_true", help="print JSON, for programs (docs/machines.md has its fields)"
    )


def print_json(values: Any) -> None:
    """Prints plain values; what is not a number in them (nan) becomes null, which is what JSON has for it."""
    print(json.dumps(_plain(values), indent=2, ensure_ascii=False, allow_nan=False))


@contextlib.contextmanager
def only_json(asked: bool) -> Iterator[None]:
    """Inside the block what libraries print goes to stderr where JSON is asked for."""
    with contextlib.redirect_stdout(sys.stderr) if asked else contextlib.nullcontext():
        yield


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(name): _plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, float) and not abs(value) < float("inf"):
        return None
    return value
