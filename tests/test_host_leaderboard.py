"""The leaderboard of the bundled model: in one go, killed and started again, and on two ranks."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from lmms_flow.harness.arms import ARMS
from tests.support import soak
from tests.support.host import Environment, host_env, processes_in, run_cli, start_cli, wait_until
from tests.support.hub import Hub

pytestmark = pytest.mark.host

QUESTIONS = soak.FAMILIES * soak.LIMIT
SEED = 3  # of three kills: one before the first answer, two among the answers


@dataclass(frozen=True)
class Board:
    """A finished leaderboard: its folder, and the seconds until its first answer."""

    folder: Path
    start: float


@pytest.fixture(scope="module")
def env(hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    return host_env(hub, tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="module")
def board(env: Environment, tmp_path_factory: pytest.TempPathFactory) -> Board:
    folder = tmp_path_factory.mktemp("undisturbed")
    with (folder / "log").open("w") as log:
        process = start_cli(soak.ARGUMENTS, soak.in_one_order(env), cwd=folder, output=log)
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
    """The rows of a table by flow; those of other frames, whose flow is `none` as well, by what is shown."""
    rows = list(csv.DictReader((board.folder / f"{name}.csv").open()))
    found = {arm_of(row["flow"], row["frames"], row["frame_order"]): row for row in rows}
    assert len(found) == len(rows), "columns tell all arms apart"
    return found


def arm_of(flow: str, frames: str | int, frame_order: str) -> str:
    return "single_frame" if str(frames) == "1" else frame_order or flow


# In one go


def test_the_table_has_every_arm(compared: subprocess.CompletedProcess[str], board: Board) -> None:
    rows = table(board)
    assert set(rows) == {"none", *(arm_of(a.flow, a.num_frames or 8, a.frame_order or "") for a in ARMS)}
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
            shown = (sample["record"][name] for name in ("flow", "num_frames", "frame_order"))
            arm = arm_of(*shown)
            right[arm] += sample["filtered_resps"][0] == sample["target"]
    assert {arm: round(float(row["accuracy"]) * QUESTIONS) for arm, row in table(board).items()} == right
    assert right["none"] > right["cross_frame@first_half"] > right["blind"]
    assert min(right["effective"], right["effective_closed"]) > 0.9 * right["none"], "as the card says"
    assert max(right["mirrored:effective"], right["random:effective:seed1"]) < 0.7 * right["none"]


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
    kills = list(soak.kill_at_random(tmp_path, env, kills=3, start=board.start, seed=SEED))
    before = kills[-1].answers
    assert 0 < before < soak.SAMPLES, kills
    done = run_cli(soak.ARGUMENTS, soak.in_one_order(env), cwd=tmp_path, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    assert f"{before} of {soak.SAMPLES} answers are from the journal" in done.stdout + done.stderr
    assert soak.answers(tmp_path) == soak.SAMPLES
    assert soak.answered_twice(tmp_path) == []
    assert soak.differences(board.folder, tmp_path) == []


# On two ranks

LAUNCH = ["--nproc_per_node", "2", "-m", "lmms_eval", *soak.ARGUMENTS]


@dataclass(frozen=True)
class KilledRank:
    """What became of a run on two ranks of which the second was killed while it answered."""

    folder: Path
    status: int
    left: list[psutil.Process]  # processes that outlived the launcher


@pytest.fixture(scope="module")
def rank_env(env: Environment) -> Environment:
    """`accelerate launch --cpu` would run one process."""
    return env | {"ACCELERATE_USE_CPU": "true"}


@pytest.fixture(scope="module")
def killed_rank(rank_env: Environment, tmp_path_factory: pytest.TempPathFactory) -> KilledRank:
    folder = tmp_path_factory.mktemp("ranks")
    with (folder / "log").open("w") as log:
        launcher = start_cli(LAUNCH, rank_env, cwd=folder, program="torchrun", output=log)
        wait_until(lambda: list(folder.glob(f"{soak.RECORDS}/*.rank1.jsonl")), launcher)
        assert launcher.poll() is None, (folder / "log").read_text()[-3000:]
        (second,) = (
            rank for rank in psutil.Process(launcher.pid).children() if rank.environ().get("RANK") == "1"
        )
        second.send_signal(signal.SIGKILL)
        status = launcher.wait(timeout=120)
    return KilledRank(folder, status, processes_in(folder))


def test_a_killed_rank_ends_the_run(killed_rank: KilledRank) -> None:
    assert killed_rank.status != 0
    assert killed_rank.left == []
    assert not list(killed_rank.folder.glob("out/**/*_results.json"))
    assert 0 < soak.answers(killed_rank.folder) < soak.SAMPLES


def test_two_ranks_give_what_one_process_gives(
    killed_rank: KilledRank, board: Board, rank_env: Environment
) -> None:
    """They go on from the killed run's records."""
    folder = killed_rank.folder
    done = run_cli(LAUNCH, soak.in_one_order(rank_env), cwd=folder, program="torchrun", timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    assert soak.answered_twice(folder) == []
    ranks_of = defaultdict(set)
    for journal in (folder / soak.RECORDS).glob("*.jsonl"):
        for line in journal.read_text().splitlines():
            record = json.loads(line)["record"]
            ranks_of[record["base"], record["doc_id"]].add(journal.suffixes[0])
    assert Counter(map(frozenset, ranks_of.values())) == {
        frozenset({".rank0"}): QUESTIONS // 2,
        frozenset({".rank1"}): QUESTIONS // 2,
    }, "the arms of a question are answered by one rank"
    one, two = soak.written(board.folder), soak.written(folder)
    assert one.keys() == two.keys()
    for name in one.keys() - {"results.json"}:
        assert sorted(one[name].splitlines()) == sorted(two[name].splitlines()), name
    assert numbers(one["results.json"]) == numbers(two["results.json"])


def numbers(results: bytes) -> dict[str, Any]:
    """What was scored, of how many."""
    return {key: json.loads(results)[key] for key in ("results", "groups", "n-samples", "versions")}
