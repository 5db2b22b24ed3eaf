"""The leaderboard of the bundled model on the bundled benchmark: in one go, killed and started again, and on two ranks."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from lmms_flow.harness.arms import ARMS
from lmms_flow.harness.journal import read_journal
from tests import soak
from tests.host import Environment, host_env, run_cli, start_cli
from tests.hub import Hub

pytestmark = pytest.mark.host

QUESTIONS = soak.FAMILIES * soak.LIMIT


@dataclass(frozen=True)
class Board:
    """A finished leaderboard: its folder, and the seconds until its first answer."""

    folder: Path
    start: float


@pytest.fixture(scope="module")
def env(hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    return soak.soak_env(host_env(hub, tmp_path_factory.mktemp("home")))


@pytest.fixture(scope="module")
def board(env: Environment, tmp_path_factory: pytest.TempPathFactory) -> Board:
    folder = tmp_path_factory.mktemp("undisturbed")
    with (folder / "log").open("w") as log:
        process = start_cli(soak.ARGUMENTS, env, cwd=folder, output=log)
        start = soak.seconds_to_the_first_answer(folder, process)
        assert process.wait(timeout=600) == 0, (folder / "log").read_text()[-3000:]
    return Board(folder, start)


@pytest.fixture(scope="module")
def compared(board: Board, env: Environment) -> subprocess.CompletedProcess[str]:
    args = ["compare", "out", "--output", "table.csv", "--output", "report.html"]
    done = run_cli(args, env, cwd=board.folder, program="lmms-flow")
    assert done.returncode == 0, done.stderr[-3000:]
    return done


def table(board: Board, name: str = "table") -> dict[str, dict[str, str]]:
    """The rows of a table by flow; the single-frame arm's flow is `none` as well."""
    rows = csv.DictReader((board.folder / f"{name}.csv").open())
    return {("single_frame" if row["frames"] == "1" else row["flow"]): row for row in rows}


# In one go


def test_the_table_has_every_arm(compared: subprocess.CompletedProcess[str], board: Board) -> None:
    rows = table(board)
    assert set(rows) == {"none", "single_frame", *(arm.flow for arm in ARMS)}
    assert len(rows) == soak.ARMS
    for row in rows.values():
        assert (row["n"], row["errors"], row["skipped"]) == (str(QUESTIONS), "0", "0")
        assert row["arm"] in compared.stdout
    assert rows["none"]["flops_per_prefill"] == rows["sham"]["flops_per_prefill"], "one vision pass each"
    assert "written: report.html" in compared.stdout
    assert "effective_closed" in (board.folder / "report.html").read_text()


def test_the_table_counts_what_the_sample_logs_say(
    compared: subprocess.CompletedProcess[str], board: Board
) -> None:
    right: Counter[str] = Counter()
    for log in board.folder.glob("out/**/*_samples_*.jsonl"):
        for sample in map(json.loads, log.read_text().splitlines()):
            arm = "single_frame" if sample["record"]["num_frames"] == 1 else sample["record"]["flow"]
            right[arm] += sample["filtered_resps"][0] == sample["target"]
    assert {arm: round(float(row["accuracy"]) * QUESTIONS) for arm, row in table(board).items()} == right
    assert right["none"] > right["cross_frame@first_half"] > right["blind"]


def test_no_answer_flips_where_nothing_is_cut(
    compared: subprocess.CompletedProcess[str], board: Board
) -> None:
    flips = {flow: int(row["flips"]) for flow, row in table(board, "table-tests").items()}
    assert flips["sham"] == 0
    assert flips["blind"] > 0


# Killed and started again


def test_a_killed_leaderboard_ends_as_an_undisturbed_one(
    board: Board, env: Environment, tmp_path: Path
) -> None:
    kills = soak.kill_at_random(tmp_path, env, kills=3, start=board.start, seed=SEED)
    before = kills[-1].answers
    assert 0 < before < soak.SAMPLES, kills
    done = run_cli(soak.ARGUMENTS, env, cwd=tmp_path, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    assert f"{before} of {soak.SAMPLES} answers are from the journal" in done.stdout + done.stderr
    assert soak.answers(tmp_path) == soak.SAMPLES
    assert soak.answered_twice(tmp_path) == []
    assert soak.differences(board.folder, tmp_path) == []


SEED = 3  # one kill before the first answer, two among the answers
