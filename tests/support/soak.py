"""A leaderboard that is killed again and again, and what must come out of it all the same.

    python -m tests.support.soak --kills 20        (make soak)

compares the end of such a run with an undisturbed one, byte for byte.
"""

from __future__ import annotations

import argparse
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

from lmms_flow.harness.arms import ARMS as LEADERBOARD_ARMS
from lmms_flow.records.journal import read_journal
from tests.support.host import Environment, host_env, run_cli, start_cli, wait_until
from tests.support.hub import serve

ARMS = 1 + len(LEADERBOARD_ARMS)  # full attention beside them
FAMILIES = 5
LIMIT = 4  # documents of each family
SAMPLES = ARMS * FAMILIES * LIMIT

# The command of README.md, word for word; folders are relative, so that no path tells two runs apart.
LEADERBOARD = "--model llava_vid_flow --model_args pretrained=flow-tiny --tasks flowbench_flow_leaderboard"
ARGUMENTS = [*LEADERBOARD.split(), "--limit", str(LIMIT), "--log_samples", "--output_path", "out"]
RECORDS = "lmms_flow_records"  # where they are by default

# What differs between two undisturbed runs. Of lmms-eval's results: when it ran, the revision of the sources that lie
# around it, and where Python put a function in memory. Of our records: how long it took.
RESULT_KEYS = (
    *("date", "start_time", "end_time", "total_evaluation_time_seconds"),
    *("git_hash", "git_branch", "lmms_eval_version"),
)
RECORD_KEYS = ("milliseconds", "shared_milliseconds")
ADDRESS = re.compile(rb" at 0x[0-9a-f]+")


@dataclass(frozen=True)
class Kill:
    """A run that was ended by SIGKILL: the answers that were on the disk then, and how many seconds old it was."""

    answers: int
    seconds: float

    @property
    def between_arms(self) -> bool:
        """Whether some arms of one question were answered and others were not."""
        return self.answers % ARMS != 0


def in_one_order(env: Environment) -> Environment:
    """lmms-eval lists a task's metrics in the order of a set of strings, which Python shuffles at every start: runs
    whose files are compared start alike, those that are killed do not.
    """
    return env | {"PYTHONHASHSEED": "0"}


def answers(folder: Path) -> int:
    """Answers on the disk, counted fast enough to stop between two of them."""
    return sum(file.read_bytes().count(b"\n") for file in folder.glob(f"{RECORDS}/*.jsonl"))


def kill_at_random(folder: Path, env: Environment, *, kills: int, start: float, seed: int) -> Iterator[Kill]:
    """Starts the leaderboard in `folder` and kills it at a random moment, until that was done `kills` times.

    One in four moments is a time before the first new answer (`start`: seconds that an undisturbed run took to its
    first), the others are a number of answers, so that all `kills` come before the last answer.
    """
    random = Random(seed)
    while kills:
        seconds, new = random.uniform(0, start), 0
        if random.random() >= 0.25:
            new = random.randint(1, max(1, 2 * (SAMPLES - answers(folder)) // (kills + 1)))
            # Among the lines of one question, or while the next is computed.
            seconds = random.choice((0, random.uniform(0, 0.4)))
        killed = _kill_at(folder, env, new, seconds)
        if killed is not None:
            kills -= 1
            yield killed


def _kill_at(folder: Path, env: Environment, new: int, seconds: float) -> Kill | None:
    """Kills a run some seconds after its so many-th new answer; where that is none, before its first new answer.

    None if it was done before. RuntimeError if it failed.
    """
    had, begin = answers(folder), time.monotonic()
    process = start_cli(ARGUMENTS, env, cwd=folder, output=subprocess.DEVNULL)
    if new:
        wait_until(lambda: answers(folder) >= had + new, process, every=0.0002)
        time.sleep(seconds)
    else:
        wait_until(lambda: time.monotonic() > begin + seconds or answers(folder) > had, process)
    process.send_signal(signal.SIGKILL)
    status = process.wait()
    if status not in (0, -signal.SIGKILL):
        raise RuntimeError(f"the leaderboard in {folder} ended by itself, with status {status}")
    return Kill(answers(folder), time.monotonic() - begin) if status else None


def seconds_to_the_first_answer(folder: Path, process: subprocess.Popen[str]) -> float:
    begin = time.monotonic()
    wait_until(lambda: answers(folder), process)
    return time.monotonic() - begin


def answered_twice(folder: Path) -> list[tuple[str, int]]:
    """Samples with more than one line in the journal."""
    counts = Counter((record.task, record.doc_id) for record in read_journal(folder / RECORDS))
    return [sample for sample, count in counts.items() if count > 1]


def written(folder: Path) -> dict[str, bytes]:
    """The last results and sample logs under a folder, without what a clock, a revision or an address puts there."""
    results = max(folder.glob("out/**/*_results.json"), key=lambda path: path.name)
    when = results.name.removesuffix("results.json")
    return {
        file.name.removeprefix(when): _lasting(file.read_bytes()) for file in results.parent.glob(f"{when}*")
    }


def _lasting(content: bytes) -> bytes:
    """`\\"` as in a record that is a string inside a sample log."""
    keys = "|".join((*RESULT_KEYS, *RECORD_KEYS))
    content = re.sub(rf'(\\?"(?:{keys})\\?": )("[^"]*"|[0-9.e-]+)'.encode(), rb"\1null", content)
    return ADDRESS.sub(b"", content)


def differences(one: Path, other: Path) -> list[str]:
    """Names of the files of two runs that are not the same, byte for byte."""
    first, second = written(one), written(other)
    return sorted(name for name in first.keys() | second.keys() if first.get(name) != second.get(name))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=int(time.time()), help="of the moments (the time)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, serve(Path(name)) as hub:
        env = host_env(hub, Path(name, "home"))
        undisturbed, killed = Path(name, "undisturbed"), Path(name, "killed")
        undisturbed.mkdir()
        killed.mkdir()
        process = start_cli(ARGUMENTS, in_one_order(env), cwd=undisturbed, output=subprocess.DEVNULL)
        start = seconds_to_the_first_answer(undisturbed, process)
        statuses = [process.wait()]
        print(f"undisturbed: {answers(undisturbed)} answers, the first after {start:.1f} s")
        between = 0
        for kill in kill_at_random(killed, env, kills=args.kills, start=start, seed=args.seed):
            between += kill.between_arms
            print(f"killed after {kill.seconds:.1f} s, {kill.answers} of {SAMPLES} answers on the disk")
        statuses.append(run_cli(ARGUMENTS, in_one_order(env), cwd=killed).returncode)
        twice, differing = answered_twice(killed), differences(undisturbed, killed)
        complete = answers(undisturbed) == answers(killed) == SAMPLES
    print(
        f"{args.kills} kills (seed {args.seed}), {between} of them between the arms of a question; exit statuses "
        f"{statuses}; answered twice: {len(twice)}; files that differ: {', '.join(differing) or 'none'}"
    )
    return int(any(statuses) or bool(twice) or bool(differing) or not complete)


if __name__ == "__main__":
    sys.exit(main())
