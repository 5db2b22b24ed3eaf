"""`lmms-flow show`: what a flow cuts, layer by layer."""

from __future__ import annotations

import argparse
from pathlib import Path

from .language import LANGUAGE, RAW, Commands


def add(commands: Commands) -> None:
    """Adds the command to the parser's."""
    show = commands.add_parser(
        "show", help="what a flow cuts, layer by layer", epilog=LANGUAGE, formatter_class=RAW
    )
    show.add_argument("flow", metavar="FLOW", help="in the one-line language, or a .yaml file")
    show.add_argument(
        "--model",
        metavar="MODEL",
        help="whose layers and prompt to take: a preset, its checkpoint, flow-tiny, or a number of layers (with the "
        "prompt of the paper's 7B); by default the flow's own or the paper's 7B",
    )
    show.add_argument("--png", type=Path, metavar="FILE", help="draw the masks into this file")
    show.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Runs it; returns the exit status."""
    from ..show.showing import show

    show(args.flow, args.model, args.png)
    return 0
