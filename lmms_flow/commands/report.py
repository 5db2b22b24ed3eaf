"""`lmms-flow report`: one page of a run."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from .language import RAW, Commands, add_records

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


def add(commands: Commands) -> None:
    """Adds the command to the parser's."""
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
    add_records(report)
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
    report.add_argument("--seed", type=int, default=0, help="of the intervals that are drawn (%(default)s)")
    report.add_argument("--allow-errors", action="store_true", help="exit with 0 although samples failed")
    report.add_argument(
        "--allow-differences",
        action="store_true",
        help="report although prompts, frames or data differ, and say so",
    )
    report.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Runs it; returns the exit status."""
    from ..report.page.building import report
    from ..report.page.options import Options

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
