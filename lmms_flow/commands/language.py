"""What the commands' parsers share: what their help says of the flow language, and the arguments of several."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, TypeAlias

from ..flow.controls import CONTROLS

RAW = argparse.RawDescriptionHelpFormatter
Commands: TypeAlias = Any  # argparse has no public name for what add_subparsers returns

_CONTROLS = "\n".join(f"  {one.written:<24} {one.meaning}" for one in CONTROLS if one.is_flow)
LANGUAGE = f"""\
a flow in one line (docs/language.md has it whole):
  video:question@6-20      cut the edges by which the question reads the video, in layers 6 to 20
  cross_frame@first_half   cut what frames read of earlier frames
  intra_frame@1-5/9-12     cut what a frame's tokens read of their own frame, in two ranges of layers
  video:last+last:last     several cuts, in all layers
  effective-llava-next-7b  the pathway that the paper found (lmms-flow flows lists them)
  path/to/flow.yaml        a flow in a file
controls, each alone:
{_CONTROLS}
groups: system, video (frame.0, frame.1, ..., frame.-2, frame.last), gap, question (stem, options, true_option,
false_options), tail (answer: what was generated so far), last; text is everything behind the video
"""


def add_records(command: argparse.ArgumentParser) -> None:
    """Adds `--records` to a command that reads runs."""
    command.add_argument(
        "--records",
        type=Path,
        action="append",
        default=[],
        metavar="DIR",
        help="where the records of stock tasks are, where the runs' --model_args don't lead there; may be repeated",
    )
