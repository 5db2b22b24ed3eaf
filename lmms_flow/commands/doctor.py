"""`lmms-flow doctor`: what works on this machine."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys

from .language import Commands


def add(commands: Commands) -> None:
    """Adds the command to the parser's."""
    doctor = commands.add_parser(
        "doctor", help="what works on this machine, and what to do where something does not"
    )
    doctor.add_argument("--json", action="store_true", help="for programs and bug reports")
    doctor.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Runs it; returns the exit status."""
    from ..doctor.checks import as_json, examine, works
    from ..doctor.findings import print_findings
    from ..show.showing import make_console

    with contextlib.redirect_stdout(sys.stderr) if args.json else contextlib.nullcontext():
        findings = examine()
    if args.json:
        print(json.dumps(as_json(findings), indent=2))
    else:
        print_findings(make_console(), findings)
    return 0 if works(findings) else 1
