"""`lmms-flow discover`: a pathway from a flow map that ran."""

from __future__ import annotations

import argparse
from pathlib import Path

from .language import RAW, Commands, add_records

DISCOVER = """\
Applies the paper's rule to a flow map that ran (a task such as flowbench_flow_map, with --log_samples --output_path
DIR) and writes the pathway as a flow's YAML file, with where it comes from. docs/discovery.md says how.
"""

DISCOVER_EXAMPLES = """\
  lmms-flow discover out                             into out/discovered.yaml, for flow=out/discovered.yaml
  lmms-flow discover out --closed --task tvbench_flow_action_antonym
"""


def add(commands: Commands) -> None:
    """Adds the command to the parser's."""
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
    _add_rule(discover)
    _add_search(discover)
    discover.set_defaults(run=run)


def _add_rule(discover: argparse.ArgumentParser) -> None:
    """How the paper's rule is applied, and to which map."""
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
    add_records(discover)


def _add_search(discover: argparse.ArgumentParser) -> None:
    """What goes on from the rule's pathway."""
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
        "--arms", type=int, default=16, help="of --search: pathways of a round (%(default)s)"
    )


def run(args: argparse.Namespace) -> int:
    """Runs it; returns the exit status."""
    from ..report.discover import Rule, find, flow_file, write_flow
    from ..report.rendering import for_terminal
    from ..terminal import make_console, print_tables, say

    rule = Rule(args.below, args.bin, args.of, args.among, tuple(args.task), args.closed)
    found = find(args.folders, rule, args.records, args.checkpoint)
    file = args.output or Path(args.folders[0]) / "discovered.yaml"
    command, tables, files = ["lmms-flow", *args.typed], [found.table()], [file]
    if args.search:
        from ..report.search_page import searched_file, tables_of, write_figure
        from ..report.search_runs import search_from

        folder = file.with_suffix("")
        outcome = search_from(found, args.folders, folder, args.margin, args.arms)
        content = searched_file(found, outcome, args.margin, args.name or file.stem, command)
        tables += tables_of(outcome, args.margin)
        files += [outcome.file, write_figure(outcome, folder / "frontier.png")]
    else:
        content = flow_file(found, args.name or file.stem, command)
    write_flow(content, file)
    console = make_console()
    print_tables(console, [part for table in tables for part in for_terminal(table, console)])
    for written in files:
        say(console, f"written: {written}")
    return 0
