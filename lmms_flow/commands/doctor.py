"""`lmms-flow doctor`: what works on this machine."""

from __future__ import annotations

import argparse

from .language import Commands
from .machines import add_json, only_json, print_json


def add(commands: Commands) -> None:
    """Adds the command to the parser's."""
    doctor = commands.add_parser(
        "doctor",
        help="what works on this machine, and what to do where something does not",
        description="Tries what a run needs (versions, device, video readers, what lmms-eval sees, folders, the "
        "bundled model under cuts) and says what to do where something does not work. Status 1: something fails.",
    )
    add_json(doctor)
    doctor.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Runs it; returns the exit status."""
    from ..doctor.checks import as_json, examine, works
    from ..doctor.findings import print_findings
    from ..terminal import make_console

    with only_json(args.json):
        findings = examine()
    if args.json:
        print_json(as_json(findings))
    else:
        print_findings(make_console(), findings)
    return 0 if works(findings) else 1
