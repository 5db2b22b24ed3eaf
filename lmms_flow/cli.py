"""`lmms-flow`: look at flows, find our tasks, check a model and a machine, evaluate, compare."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

from .errors import FlowError, nearest
from .flow.controls import CONTROLS
from .harness.ground import MODELS

RAW = argparse.RawDescriptionHelpFormatter
Commands: TypeAlias = Any  # argparse has no public name for what add_subparsers returns

_CONTROLS = "\n".join(f"  {one.written:<24} {one.meaning}" for one in CONTROLS if one.is_flow)
LANGUAGE = f"""\
a flow in one line (docs/language.md has it whole):
  video:question@6-20      cut the edges by which the question reads the video, in layers 6 to 20
  cross_frame@first_half   cut what frames read of earlier frames
  video:last+last:last     several cuts, in all layers
  effective-llava-next-7b  the pathway that the paper found (lmms-flow flows lists them)
  path/to/flow.yaml        a flow in a file
controls, each alone:
{_CONTROLS}
groups: system, video (frame.0, frame.1, ...), gap, question (stem, options, true_option, false_options), tail, last
"""

COMPARE = """\
Reads what lmms-eval wrote (--log_samples --output_path DIR), joins scores and records, and compares every arm with
full attention of the same checkpoint, question by question. Ends with status 1 where samples failed, with 2 where runs
can't be compared. docs/leaderboard.md says what each column means.
"""

COMPARE_EXAMPLES = """\
  lmms-flow compare out                            to the terminal
  lmms-flow compare out --output report.html       a page with figures, every test and every flipped question
  lmms-flow compare a b --margin 0.01 --flips      two runs; is each difference within one point?
"""

REPORT = """\
Reads what lmms-eval wrote (--log_samples --output_path DIR), arms and traces alike, and writes one page that needs
nothing else: three sentences of what was found, what was run, leaderboards, flow maps, read-outs, failures, costs, and
a card for every question that was answered otherwise. Its figures (PNG, SVG) and tables (CSV) go into a folder beside
it.
docs/report.md says what is on the page.
"""

REPORT_EXAMPLES = """\
  lmms-flow report out                                   into out/report.html
  lmms-flow report out --output page.html --question 17  with a card for question 17
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit status. A user's mistake is one line on stderr and status 2."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["eval"]:  # everything behind it is lmms-eval's
        from .harness.evaluate import main as evaluate

        return evaluate(arguments[1:])
    args = _parser().parse_args(arguments)
    from .errors import UserError

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
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print(f"lmms-flow {args.command}: {where}{error.strerror or error}", file=sys.stderr)
    return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lmms-flow", description=__doc__, epilog=LANGUAGE, formatter_class=RAW
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_show(commands)
    _add_small_commands(commands)
    _add_verify(commands)
    commands.add_parser("eval", help="lmms-eval with our tasks known and an honest exit status")
    _add_compare(commands)
    _add_report(commands)
    return parser


def _add_show(commands: Commands) -> None:
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
    show.set_defaults(run=_show)


def _add_small_commands(commands: Commands) -> None:
    flows = commands.add_parser("flows", help="the pathways that are known, and the controls")
    flows.set_defaults(run=_flows)

    tasks = commands.add_parser("tasks", help="the folder of our tasks, for lmms-eval --include_path")
    tasks.add_argument("--list", action="store_true", help="the names of the tasks instead")
    tasks.set_defaults(run=_tasks)

    doctor = commands.add_parser(
        "doctor", help="what works on this machine, and what to do where something does not"
    )
    doctor.add_argument("--json", action="store_true", help="for programs and bug reports")
    doctor.set_defaults(run=_doctor)


def _add_verify(commands: Commands) -> None:
    verify = commands.add_parser("verify", help="shows that a cut reaches every layer of your checkpoint")
    verify.add_argument(
        "--model",
        default="llava_vid_flow",
        help=f"the model's name in lmms-eval: {', '.join(MODELS)} (%(default)s)",
    )
    verify.add_argument("--model_args", default="", help="as for lmms-eval, such as pretrained=flow-tiny")
    verify.set_defaults(run=_verify)


def _add_compare(commands: Commands) -> None:
    compare = commands.add_parser(
        "compare",
        help="a leaderboard of the arms in lmms-eval's output folders, with paired tests",
        description=COMPARE,
        epilog=COMPARE_EXAMPLES,
        formatter_class=RAW,
    )
    compare.add_argument(
        "folders", nargs="+", metavar="DIR", help="what --output_path named, of one run or of many"
    )
    compare.add_argument(
        "--output",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="write into this file, in the format of its ending: .html or .csv (everything), .md or .tex (what is "
        "printed); may be repeated",
    )
    compare.add_argument(
        "--figure", type=Path, metavar="FILE", help="draw accuracies with intervals (.png, .svg, .pdf)"
    )
    compare.add_argument(
        "--records",
        type=Path,
        action="append",
        default=[],
        metavar="DIR",
        help="where the records of stock tasks are, where the runs' --model_args don't lead there; may be repeated",
    )
    compare.add_argument(
        "--margin",
        type=float,
        default=0.02,
        help="the largest difference that counts as none, as a share (%(default)s)",
    )
    compare.add_argument("--seed", type=int, default=0, help="of the bootstrap intervals (%(default)s)")
    compare.add_argument("--by-task", action="store_true", help="print the paired tests of each task as well")
    compare.add_argument(
        "--flips", action="store_true", help="print each question that was answered otherwise as well"
    )
    compare.add_argument("--allow-errors", action="store_true", help="exit with 0 although samples failed")
    compare.add_argument(
        "--allow-differences",
        action="store_true",
        help="compare although prompts, frames or data differ, and say so",
    )
    compare.set_defaults(run=_compare)


def _add_report(commands: Commands) -> None:
    report = commands.add_parser(
        "report",
        help="one page of a run: what was found, flow maps, read-outs, failures, every flipped question",
        description=REPORT,
        epilog=REPORT_EXAMPLES,
        formatter_class=RAW,
    )
    report.add_argument(
        "folders", nargs="+", metavar="DIR", help="what --output_path named, of one run or of many"
    )
    report.add_argument(
        "--output", type=Path, metavar="FILE", help="the page (report.html in the first folder)"
    )
    report.add_argument(
        "--records",
        type=Path,
        action="append",
        default=[],
        metavar="DIR",
        help="where the runs' records are, where their --model_args don't lead there; may be repeated",
    )
    report.add_argument(
        "--question",
        action="append",
        default=[],
        metavar="ID",
        help="show this question as well: its id, or task/document; may be repeated",
    )
    report.add_argument(
        "--no-frames", action="store_true", help="leave out the frames, whose videos are read again for it"
    )
    report.add_argument(
        "--margin",
        type=float,
        default=0.02,
        help="the largest difference that counts as none, as a share (%(default)s)",
    )
    report.add_argument("--seed", type=int, default=0, help="of the bootstrap intervals (%(default)s)")
    report.add_argument("--allow-errors", action="store_true", help="exit with 0 although samples failed")
    report.add_argument(
        "--allow-differences",
        action="store_true",
        help="report although prompts, frames or data differ, and say so",
    )
    report.set_defaults(run=_report)


def _show(args: argparse.Namespace) -> int:
    from .show.showing import show

    show(args.flow, args.model, args.png)
    return 0


def _flows(args: argparse.Namespace) -> int:
    from .show.showing import list_flows

    list_flows()
    return 0


def _tasks(args: argparse.Namespace) -> int:
    from .harness.plugin import tasks_folder
    from .harness.task_files import index_of

    folder = tasks_folder()
    if not args.list:
        print(folder)
        return 0
    for name in sorted(index_of(folder)):
        print(name)
    return 0


def _verify(args: argparse.Namespace) -> int:
    from rich.table import Table

    from .engine import self_check
    from .harness import host
    from .show.showing import make_console

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


def _doctor(args: argparse.Namespace) -> int:
    from .doctor.checks import as_json, examine, works
    from .doctor.findings import print_findings
    from .show.showing import make_console

    with contextlib.redirect_stdout(sys.stderr) if args.json else contextlib.nullcontext():
        findings = examine()
    if args.json:
        print(json.dumps(as_json(findings), indent=2))
    else:
        print_findings(make_console(), findings)
    return 0 if works(findings) else 1


def _compare(args: argparse.Namespace) -> int:
    from .report.compare import compare
    from .report.rendering import for_terminal, width_of
    from .show.showing import make_console

    comparison = compare(
        args.folders,
        records=args.records,
        margin=args.margin,
        seed=args.seed,
        allow_differences=args.allow_differences,
        outputs=args.output,
        figure=args.figure,
        by_task=args.by_task,
        flips=args.flips,
    )
    console = make_console()
    for table in comparison.tables:
        for part in for_terminal(table):
            console.width = max(console.width, width_of(part, console))
            console.print(part)
    for file in comparison.files:
        console.print(f"written: {file}")
    if comparison.failures and not args.allow_errors:
        line = f"{comparison.failures} samples failed; --allow-errors accepts that"
        print(f"lmms-flow compare: {line}", file=sys.stderr)
        return 1
    return 0


def _report(args: argparse.Namespace) -> int:
    from .report.page.building import report
    from .report.page.options import Options

    output = args.output or Path(args.folders[0]) / "report.html"
    options = Options(
        args.records,
        args.margin,
        args.seed,
        args.allow_differences,
        args.question,
        with_frames=not args.no_frames,
    )
    made = report(args.folders, output, options)
    size = output.stat().st_size / 1e6
    print(f"written: {output} ({size:.1f} MB), and {len(made.files) - 1} files in {output.with_suffix('')}")
    if made.failures and not args.allow_errors:
        line = f"{made.failures} samples failed; --allow-errors accepts that"
        print(f"lmms-flow report: {line}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
