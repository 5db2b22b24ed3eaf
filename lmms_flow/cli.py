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
nothing else: three sentences of what was found, what was run, leaderboards, flow maps, read-outs, failures, costs,
and a card for every question that was answered otherwise. Its figures (PNG, SVG) and tables (CSV) go into a folder
beside it. docs/report.md says what is on the page.
"""

REPORT_EXAMPLES = """\
  lmms-flow report out                                   into out/report.html
  lmms-flow report out --output page.html --question 17  with a card for question 17
"""

DISCOVER = """\
Applies the paper's rule to a flow map that ran (a task such as flowbench_flow_map, with --log_samples --output_path
DIR) and writes the pathway as a flow's YAML file, with where it comes from. docs/discovery.md says how.
"""

DISCOVER_EXAMPLES = """\
  lmms-flow discover out                             into out/discovered.yaml, for flow=out/discovered.yaml
  lmms-flow discover out --closed --task tvbench_flow_action_antonym
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit status. A user's mistake is one line on stderr and status 2."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["eval"]:  # everything behind it is lmms-eval's
        from .harness.evaluate import main as evaluate

        return evaluate(arguments[1:])
    args = _parser().parse_args(arguments)
    args.typed = arguments
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
    _add_discover(commands)
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
    verify = commands.add_parser(
        "verify",
        help="shows that prompts are the model's own and that a cut reaches every layer of your checkpoint",
    )
    verify.add_argument(
        "--model",
        default="llava_vid_flow",
        help=f"the model's name in lmms-eval: {', '.join(MODELS)}, or one of your own package (%(default)s)",
    )
    verify.add_argument("--model_args", default="", help="as for lmms-eval, such as pretrained=flow-tiny")
    verify.add_argument("--video", type=Path, metavar="FILE", help="to ask about (a bundled clip)")
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


def _add_discover(commands: Commands) -> None:
    discover = commands.add_parser(
        "discover",
        help="a pathway from a flow map that ran, as a flow's YAML file",
        description=DISCOVER,
        epilog=DISCOVER_EXAMPLES,
        formatter_class=RAW,
    )
    discover.add_argument(
        "folders", nargs="+", metavar="DIR", help="what --output_path named, of a map's run"
    )
    discover.add_argument(
        "--output", type=Path, metavar="FILE", help="the flow's file (discovered.yaml in the first folder)"
    )
    discover.add_argument("--name", help="of the flow (the file's)")
    discover.add_argument(
        "--closed", action="store_true", help="close the template text too (docs/language.md)"
    )
    discover.add_argument(
        "--below", type=float, default=-5.0, metavar="PER_CENT", help="a bin is kept below this (%(default)s)"
    )
    discover.add_argument("--bin", type=int, metavar="LAYERS", help="layers of a bin (the paper's 5, scaled)")
    discover.add_argument(
        "--among",
        choices=("right", "all", "wrong"),
        default="right",
        help="the questions that full attention answers so (%(default)s)",
    )
    discover.add_argument(
        "--of", choices=("answer", "true_option"), default="answer", help="whose probability (%(default)s)"
    )
    discover.add_argument(
        "--task",
        action="append",
        default=[],
        metavar="TASK",
        help="questions of this task alone; may be repeated",
    )
    discover.add_argument("--checkpoint", help="whose map, where there are several")
    discover.add_argument(
        "--records",
        type=Path,
        action="append",
        default=[],
        metavar="DIR",
        help="as for compare; may be repeated",
    )
    discover.add_argument(
        "--search",
        action="store_true",
        help="go on from there: run the model for the sparsest closed pathway that answers as full attention does",
    )
    discover.add_argument(
        "--margin",
        type=float,
        default=0.02,
        help="of --search: the largest difference that counts as none, as a share (%(default)s)",
    )
    discover.add_argument(
        "--arms", type=int, default=16, help="of --search: pathways of the first round (%(default)s)"
    )
    discover.set_defaults(run=_discover)


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

    from .show.showing import make_console
    from .testing import conformance

    model = _wrapper(args.model).create_from_arg_string(args.model_args)
    found = conformance(model, args.video)
    table = Table("check", "passed", "detail", title=f"{args.model}, {model.checkpoint}")
    for one in found:
        table.add_row(one.name, one.verdict, one.detail)
    make_console().print(table)
    return 1 if any(one.passed is False for one in found) else 0


def _wrapper(name: str) -> Any:
    """The class of a registered model. Raises FlowError for one that is not there, or runs no flows."""
    from .harness import host

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


def _discover(args: argparse.Namespace) -> int:
    from .report.discover import Rule, find, flow_file, write_flow
    from .report.rendering import for_terminal
    from .show.showing import make_console

    rule = Rule(args.below, args.bin, args.of, args.among, tuple(args.task), args.closed)
    found = find(args.folders, rule, args.records, args.checkpoint)
    file = args.output or Path(args.folders[0]) / "discovered.yaml"
    command, tables, files = ["lmms-flow", *args.typed], [found.table()], [file]
    if args.search:
        from .report.search_page import searched_file, tables_of, write_figure
        from .report.search_runs import search_from

        folder = file.with_suffix("")
        outcome = search_from(found, args.folders, folder, args.margin, args.arms)
        content = searched_file(found, outcome, args.margin, args.name or file.stem, command)
        tables += tables_of(outcome, args.margin)
        files += [outcome.file, write_figure(outcome, folder / "frontier.png")]
    else:
        content = flow_file(found, args.name or file.stem, command)
    write_flow(content, file)
    console = make_console()
    for table in tables:
        for part in for_terminal(table):
            console.print(part)
    for written in files:
        console.print(f"written: {written}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
