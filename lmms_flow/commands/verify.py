"""`lmms-flow verify`: that a cut reaches every layer of a checkpoint."""

from __future__ import annotations

import argparse

from ..errors import FlowError, nearest
from ..harness.ground import MODELS
from .language import Commands


def add(commands: Commands) -> None:
    """Adds the command to the parser's."""
    verify = commands.add_parser("verify", help="shows that a cut reaches every layer of your checkpoint")
    verify.add_argument(
        "--model",
        default="llava_vid_flow",
        help=f"the model's name in lmms-eval: {', '.join(MODELS)} (%(default)s)",
    )
    verify.add_argument("--model_args", default="", help="as for lmms-eval, such as pretrained=flow-tiny")
    verify.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Runs it; returns the exit status."""
    from rich.table import Table

    from ..engine import self_check
    from ..harness import host
    from ..show.showing import make_console

    if args.model not in MODELS:
        raise FlowError(
            f"--model {args.model!r}: there is no such model{nearest(args.model, MODELS)} (models: {', '.join(MODELS)})"
        )
    model = host.GET_MODEL.take()(args.model).create_from_arg_string(args.model_args)
    checks = self_check(model.model, engine=model.args.engine)
    table = Table("check", "passed", "detail", title=f"{args.model}, {model.checkpoint}")
    for check in checks:
        table.add_row(check.name, "yes" if check.passed else "NO", check.detail)
    make_console().print(table)
    return 0 if all(check.passed for check in checks) else 1
