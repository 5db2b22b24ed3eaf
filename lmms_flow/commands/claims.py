"""`lmms-flow claims`: what papers say about where the answer flows, and what a run says of it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ReportError
from .language import RAW, Commands

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
    claims.add_argument(
        "--records",
        type=Path,
        action="append",
        default=[],
        metavar="DIR",
        help="where the records of stock tasks are, where the runs' --model_args don't lead there; may be repeated",
    )
    claims.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Runs it; returns the exit status."""
    from ..report.rendering import for_terminal, width_of, write_csv
    from ..show.showing import make_console

    console = make_console()
    if not args.folders:
        if args.output is not None:
            raise ReportError(
                f"--output {args.output}: name the folder of a run, whose verdicts it is to hold"
            )
        _list(console)
        return 0
    tables = _verdicts(args)
    for table in tables:
        for part in for_terminal(table):
            console.width = max(console.width, width_of(part, console))
            console.print(part)
    if args.output is not None:
        for file in write_csv(tables, args.output):
            console.print(f"written: {file}")
    return 0


def _verdicts(args: argparse.Namespace) -> list[Table]:
    from ..report.board import Settings, make_boards
    from ..report.runs import read_runs
    from ..report.verdicts import verdict_table

    reading = read_runs(args.folders, args.records)
    return [verdict_table(board) for board in make_boards(reading.arms, Settings(), notes=reading.notes)]


def _list(console: Any) -> None:
    from ..claims.book import claims

    found = claims()
    for paper in dict.fromkeys((one.paper, one.source) for one in found):
        console.print(f"\n{paper[0]} ({paper[1]})", highlight=False)
        for one in found:
            if one.paper == paper[0]:
                console.print(f"  {one.name}: {one.says}", highlight=False, soft_wrap=True)
                console.print(
                    f"    {one.arm}: {one.predicted} (points); {one.where}", highlight=False, soft_wrap=True
                )
