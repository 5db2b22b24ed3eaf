"""`lmms-flow flows`: the pathways that are known, and the controls."""

from __future__ import annotations

import argparse

from .language import Commands


def add(commands: Commands) -> None:
    """Adds the command to the parser's."""
    flows = commands.add_parser(
        "flows",
        help="the pathways that are known, and the controls",
        description="Lists the pathways that are known, the layers in which each keeps its edges, and the controls.",
    )
    flows.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Runs it; returns the exit status."""
    from ..show.showing import list_flows

    list_flows()
    return 0
