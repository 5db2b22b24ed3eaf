"""What `lmms-flow doctor` found, for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

from lmms_flow.doctor.checks import Finding

MARKS = {"ok": "ok", "note": "note", "fails": "FAILS"}
COLOURS = {"ok": "green", "note": "yellow", "fails": "bold red"}


def print_findings(console: Any, findings: Sequence[Finding]) -> None:
    """A table for each part, and under them what is to be done. Details fold where the terminal is narrow."""
    from rich.table import Table
    from rich.text import Text

    from lmms_flow.terminal import say

    for part, found in groupby(findings, key=lambda finding: finding.part):
        table = Table(
            "", "", "", title=part, title_justify="left", show_header=False, box=None, padding=(0, 1, 0, 0)
        )
        for finding in found:
            mark = Text(MARKS[finding.status], style=COLOURS[finding.status])
            table.add_row(mark, finding.name, Text(finding.detail))
        console.print(table)
        console.print()
    failing = [finding for finding in findings if finding.status == "fails"]
    for finding in [*failing, *(one for one in findings if one.status == "note" and one.todo)]:
        say(console, f"{MARKS[finding.status]}: {finding.part}, {finding.name}: {finding.todo}")
    say(console, f"{len(failing)} findings keep something from working" if failing else "Everything works.")
