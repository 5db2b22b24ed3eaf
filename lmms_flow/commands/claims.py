"""`lmms-flow claims`: what papers say about where the answer flows, and what a run says of it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ReportError
from .language import RAW, Commands, add_records
from .machines import add_json, print_json

if TYPE_CHECKING:
    from ..report.table import Table

CLAIMS = """\
Lists what papers claim about where the answer flows in a VideoLLM. With DIR (what --output_path named) each claim is
held against the arms that were run there: it holds, it fails, or there are not enough questions to say so.
docs/claims.md says how. The arms of all claims are one group of tasks a benchmark, such as tvbench_flow_claims.
"""

CLAIMS_EXAMPLES = """\
  lmms-flow eval --model llava_vid_flow --tasks tvbench_flow_claims --log_samples --output_path out
  lmms-flow claims out
  lmms-flow claims out --output verdicts.csv
"""


def add(commands: Commands) -> None:
    """Adds the command to the parser's."""
    claims = commands.add_parser(
        "claims",
        help="what papers claim, and whether it holds in a run",
        description=CLAIMS,
        epilog=CLAIMS_EXAMPLES,
        formatter_class=RAW,
    )
    claims.add_argument(
        "folders", nargs="*", metavar="DIR", help="what --output_path named, of one run or of many"
    )
    claims.add_argument(
        "--output", type=Path, metavar="FILE.csv", help="write the verdicts with all numbers into this file"
    )
    add_records(claims)
    claims.add_argument(
        "--wide", action="store_true", help="print all columns, as into a pipe, however wide they are"
    )
    add_json(claims)
    claims.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Runs it; returns the exit status."""
    from ..report.rendering import as_json, for_terminal, write_csv
    from ..terminal import make_console, print_tables, say

    if not args.folders and args.output is not None:
        raise ReportError(f"--output {args.output}: name the folder of a run, whose verdicts it is to hold")
    if args.json:
        from dataclasses import asdict

        from ..claims.book import claims

        listed = [asdict(claim) for claim in claims()]
        print_json({"tables": as_json(_verdicts(args))} if args.folders else {"claims": listed})
        return 0
    console = make_console(args.wide)
    if not args.folders:
        _list(console)
        return 0
    tables = _verdicts(args)
    print_tables(console, [part for table in tables for part in for_terminal(table, console)])
    if args.output is not None:
        for file in write_csv(tables, args.output):
            say(console, f"written: {file}")
    return 0


def _verdicts(args: argparse.Namespace) -> list[Table]:
    from ..report.board import Settings, make_boards
    from ..report.runs import read_runs
    from ..report.verdicts import verdict_table

    reading = read_runs(args.folders, args.records)
    return [verdict_table(board) for board in make_boards(reading.arms, Settings(), notes=reading.notes)]


def _list(console: Any) -> None:
    from ..claims.book import claims
    from ..terminal import say

    found = claims()
    for paper in dict.fromkeys((one.paper, one.source) for one in found):
        say(console, "")
        say(console, f"{paper[0]} ({paper[1]})")
        for one in found:
            if one.paper == paper[0]:
                say(console, f"  {one.name}: {one.says}")
                say(console, f"    {one.arm}: {one.predicted} (points); {one.where}")
