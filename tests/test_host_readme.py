"""README's table is what `make quickstart` measures, number by number."""

from __future__ import annotations

import csv
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.host

ROOT = Path(__file__).parents[1]
ENVIRONMENT = Path(sys.prefix)


def readme_rows() -> dict[str, list[str]]:
    """The rows of the quickstart's table by flow: the numbers in their cells."""
    table = (ROOT / "README.md").read_text(encoding="utf-8").partition("| arm | n |")[2].partition("\n\n")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]
    return {re.findall(r"`([^`]+)`", row[0])[0]: row[1:] for row in rows}


@pytest.mark.timeout(1800)
def test_the_readme_shows_what_the_quickstart_measures(tmp_path: Path) -> None:
    command = ["make", f"--assume-old={ENVIRONMENT}/.installed", "quickstart", f"VENV={ENVIRONMENT}"]
    done = subprocess.run(
        [*command, f"OUT={tmp_path}"], cwd=ROOT, capture_output=True, text=True, timeout=1700, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    table = tmp_path / "table.csv"
    compare = [str(Path(sys.executable).with_name("lmms-flow")), "compare", str(tmp_path / "results")]
    subprocess.run([*compare, "--output", str(table)], check=True, capture_output=True, env=os.environ)
    measured = {row["flow"]: row for row in csv.DictReader(table.open(encoding="utf-8"))}
    shown = readme_rows()
    assert shown.keys() == measured.keys()
    for flow, (n, accuracy, difference, _, _, edges, flops) in shown.items():
        row = measured[flow]
        assert n == row["n"], flow
        assert accuracy.split()[0] == f"{100 * float(row['accuracy']):.1f}", flow
        if difference:
            assert difference.split()[0] == f"{100 * float(row['difference']):+.1f}", flow
        assert edges == f"{100 * float(row['share_of_edges_kept']):.1f} %", flow
        assert flops == f"{100 * float(row['share_of_full_flops']):.1f} %", flow
