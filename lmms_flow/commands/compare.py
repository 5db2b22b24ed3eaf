"""`lmms-flow compare`: a leaderboard with paired tests."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from .language import RAW, Commands, add_records
from .machines import add_json, print_json

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


def add(commands: Commands) -> None:
    """Adds the command to the parser's."""
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
    add_records(compare)
    compare.add_argument(
        "--margin",
        type=float,
        default=0.02,
        help="the largest difference that counts as none, as a share (%(default)s)",
    )
    compare.add_argument("--seed", type=int, default=0, help="of the intervals that are drawn (%(default)s)")
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
    compare.add_argument(
        "--wide",
        action="store_true",
        help="print all columns and rows, as into a pipe, however wide they are",
    )
    add_json(compare)
    compare.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Runs it; returns the exit status."""
    from ..report.compare import compare
    from ..report.rendering import as_json, for_terminal
    from ..terminal import make_console, print_tables, say

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
    if args.json:
        print_json({"tables": as_json(comparison.tables), "failures": comparison.failures})
    else:
        console = make_console(args.wide)
        print_tables(console, [part for table in comparison.tables for part in for_terminal(table, console)])
        for file in comparison.files:
            say(console, f"written: {file}")
    if comparison.failures and not args.allow_errors:
        line = f"{comparison.failures} samples failed; --allow-errors accepts that"
        print(f"lmms-flow compare: {line}", file=sys.stderr)
        return 1
    return 0
