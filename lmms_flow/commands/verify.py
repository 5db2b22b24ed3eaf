"""`lmms-flow verify`: that a cut reaches every layer of a checkpoint."""

from __future__ import annotations

import argparse

from ..errors import FlowError, nearest
from ..harness.ground import MODELS
from .language import Commands
from .machines import add_json, only_json, print_json


def add(commands: Commands) -> None:
    """Adds the command to the parser's."""
    verify = commands.add_parser(
        "verify",
        help="shows that a cut reaches every layer of your checkpoint",
        description="Loads a checkpoint and shows on the model itself that a cut changes its answer, and that what "
        "is cut off changes nothing. Ends with 1 where a check fails.",
    )
    verify.add_argument(
        "--model",
        default="llava_vid_flow",
        help=f"the model's name in lmms-eval: {', '.join(MODELS)} (%(default)s)",
    )
    verify.add_argument("--model_args", default="", help="as for lmms-eval, such as pretrained=flow-tiny")
    add_json(verify)
    verify.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Runs it; returns the exit status."""
    from ..engine import self_check
    from ..harness import host
    from ..terminal import TextColumn, TextTable, make_console, print_tables

    if args.model not in MODELS:
        raise FlowError(
            f"--model {args.model!r}: there is no such model{nearest(args.model, MODELS)} (models: {', '.join(MODELS)})"
        )
    with only_json(args.json):
        model = host.GET_MODEL.take()(args.model).create_from_arg_string(args.model_args)
        checks = self_check(model.model, engine=model.args.engine)
    passed = all(check.passed for check in checks)
    if args.json:
        listed = [{"name": one.name, "passed": one.passed, "detail": one.detail} for one in checks]
        about = {"model": args.model, "checkpoint": model.checkpoint, "engine": model.args.engine}
        print_json({**about, "passed": passed, "checks": listed})
    else:
        columns = (
            TextColumn("check", tuple(check.name for check in checks)),
            TextColumn("passed", tuple("yes" if check.passed else "NO" for check in checks)),
            TextColumn("detail", tuple(check.detail for check in checks)),
        )
        print_tables(make_console(), [TextTable(f"{args.model}, {model.checkpoint}", columns)])
    return 0 if passed else 1
