"""`lmms-flow`: look at flows, find our tasks, check a model and a machine, evaluate, compare."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence

from . import __version__
from .commands import claims, compare, discover, doctor, flows, report, show, tasks, verify
from .commands.language import LANGUAGE, RAW
from .commands.parsing import Parser
from .errors import UserError


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit status (docs/exit-statuses.md).

    A user's mistake is one line on stderr and status 2.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        if arguments[:1] == ["eval"]:  # everything behind it is lmms-eval's
            from .harness.evaluate import main as evaluate

            return evaluate(arguments[1:])
        args = _parser().read(arguments)
        args.typed = arguments
        status = _run(args)
        sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        print("lmms-flow: interrupted", file=sys.stderr)
        return 128 + signal.SIGINT
    except BrokenPipeError:  # `lmms-flow tasks --list | head` has read what it wants
        os.dup2(
            os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno()
        )  # nor may Python's own flush at the end fail
        return 128 + signal.SIGPIPE


def _run(args: argparse.Namespace) -> int:
    try:
        return int(args.run(args))
    except (
        SystemExit
    ) as stop:  # a RunError, such as of a model that could not be loaded, says so in its own line
        if not isinstance(stop.code, str):
            raise
        print(f"lmms-flow {args.command}: {stop.code.removeprefix('lmms_flow: ')}", file=sys.stderr)
        return 1
    except UserError as error:
        print(f"lmms-flow {args.command}: {error}", file=sys.stderr)
    except BrokenPipeError:
        raise
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print(f"lmms-flow {args.command}: {where}{error.strerror or error}", file=sys.stderr)
    return 2


def _parser() -> Parser:
    parser = Parser(prog="lmms-flow", description=__doc__, epilog=LANGUAGE, formatter_class=RAW)
    parser.add_argument("--version", action="version", version=f"lmms-flow {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in (show, flows, tasks, doctor, verify):
        command.add(commands)
    commands.add_parser(
        "eval",
        help="lmms-eval with our tasks known and an honest exit status",
        description="Runs lmms-eval with our tasks known; `lmms-flow eval --help` has its arguments.",
    )
    for command in (compare, report, claims, discover):
        command.add(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
