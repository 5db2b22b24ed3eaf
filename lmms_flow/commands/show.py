"""`lmms-flow show`: what a flow cuts, layer by layer."""

from __future__ import annotations

import argparse
from pathlib import Path

from .language import LANGUAGE, RAW, Commands
from .machines import add_json, print_json


def add(commands: Commands) -> None:
    """Adds the command to the parser's."""
    show = commands.add_parser(
        "show",
        help="what a flow cuts, layer by layer",
        description="Says what a flow cuts in which layers of a known model, how many edges are left, by which\n"
        "routes the video still reaches the last token, and what a prefill costs. No model is loaded.",
        epilog=LANGUAGE,
        formatter_class=RAW,
    )
    show.add_argument("flow", metavar="FLOW", help="in the one-line language, or a .yaml file")
    show.add_argument(
        "--model",
        metavar="MODEL",
        help="whose layers and prompt to take: a preset, its checkpoint, flow-tiny, or a number of layers (with the "
        "prompt of the paper's 7B); by default the flow's own or the paper's 7B",
    )
    show.add_argument("--png", type=Path, metavar="FILE", help="draw the masks into this file")
    add_json(show)
    show.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Runs it; returns the exit status."""
    from ..show.showing import as_json, show, shown

    subject = shown(args.flow, args.model)
    if args.json:
        print_json(as_json(subject))
        if args.png:
            subject.draw(args.png)
    else:
        show(subject, args.png)
    return 0
