"""The comparison of a stock benchmark's runs: scores from lmms-eval's own logs, records from the journal."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from lmms_flow.records.journal import read_journal
from tests.support.host import host_env, run_cli
from tests.support.hub import Hub

pytestmark = pytest.mark.host

TASKS = ("tvbench_object_count", "tvbench_moving_direction")
FLOWS = ("none", "effective")


def test_runs_of_stock_tasks_are_compared(paper_hub: Hub, tmp_path: Path) -> None:
    """As a user types it: the folder of the records is the default, and nobody names it again."""
    env = host_env(paper_hub, tmp_path / "home")
    for flow in FLOWS:
        args = ["--model", "llava_vid_flow", "--model_args", f"flow={flow}", "--tasks", ",".join(TASKS)]
        args += ["--limit", "2", "--log_samples", "--output_path", f"{tmp_path}/out"]
        done = run_cli(args, env, cwd=tmp_path)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    table = tmp_path / "table.csv"
    done = run_cli(["compare", "out", "--output", str(table)], env, cwd=tmp_path, program="lmms-flow")
    assert done.returncode == 0, done.stderr[-2000:]
    rows = list(csv.DictReader(table.open()))
    assert [(row["flow"], row["n"]) for row in rows] == [(flow, "4") for flow in FLOWS]
    records = read_journal(tmp_path / "lmms_flow_records")
    for row in rows:
        own = [record for record in records if record.flow == row["flow"]]
        kept = sum(record.edges_kept or 0 for record in own) / sum(record.edges_total or 0 for record in own)
        assert float(row["share_of_edges_kept"]) == pytest.approx(kept)
    assert float(rows[1]["share_of_edges_kept"]) < 1
