"""`lmms-flow verify`: that a checkpoint's prompts are its own, and that a cut reaches every layer of it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ..errors import FlowError, nearest
from ..harness.ground import MODELS
from .language import Commands
from .machines import add_json, only_json, print_json


def add(commands: Commands) -> None:
    """Adds the command to the parser's."""
    verify = commands.add_parser(
        "verify",
        help="shows that prompts are the model's own and that a cut reaches every layer of your checkpoint",
        description="Loads a checkpoint and shows on the model itself that its prompts are its own, that a cut changes "
        "its answer, and that what is cut off changes nothing. Ends with 1 where a check fails.",
    )
    verify.add_argument(
        "--model",
        default="llava_vid_flow",
        help=f"the model's name in lmms-eval: {', '.join(MODELS)}, or one of your own package (%(default)s)",
    )
    verify.add_argument("--model_args", default="", help="as for lmms-eval, such as pretrained=flow-tiny")
    verify.add_argument("--video", type=Path, metavar="FILE", help="to ask about (a bundled clip)")
    add_json(verify)
    verify.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Runs it; returns the exit status."""
    from ..terminal import TextColumn, TextTable, make_console, print_tables
    from ..testing import conformance

    with only_json(args.json):
        model = _wrapper(args.model).create_from_arg_string(args.model_args)
        found = conformance(model, args.video)
    passed = all(one.passed is not False for one in found)
    if args.json:
        listed = [{"name": one.name, "passed": one.passed, "detail": one.detail} for one in found]
        about = {"model": args.model, "checkpoint": model.checkpoint, "engine": model.args.engine}
        print_json({**about, "passed": passed, "checks": listed})
    else:
        columns = (
            TextColumn("check", tuple(one.name for one in found)),
            TextColumn("passed", tuple(one.verdict for one in found)),
            TextColumn("detail", tuple(one.detail for one in found)),
        )
        print_tables(make_console(), [TextTable(f"{args.model}, {model.checkpoint}", columns)])
    return 0 if passed else 1


def _wrapper(name: str) -> Any:
    """The class of a registered model. Raises FlowError for one that is not there, or runs no flows."""
    from ..harness import host

    if name not in MODELS and name not in host.LIST_MODELS.take()(include_aliases=True):
        raise FlowError(
            f"--model {name!r}: there is no such model{nearest(name, MODELS)} (models: {', '.join(MODELS)}, and those "
            "of your own package)"
        )
    wrapper = host.GET_MODEL.take()(name)
    if not getattr(wrapper, "runs_flows", False):
        raise FlowError(
            f"--model {name}: it runs no flows, it is no subclass of FlowModel (docs/adding-a-model.md)"
        )
    return wrapper
