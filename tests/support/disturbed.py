"""Runs of arms and traces that are disturbed in every way, and what must come out of them all the same.

    python -m tests.support.disturbed --minutes 30        (make disturbed)

A run of lmms-eval is stopped by SIGINT, SIGTERM or SIGKILL at a random moment, loses one of two ranks, shares its
records with a second run, or finds a video gone. Then it is started again, and again, and at last left alone: its
results, logs and arrays must be an undisturbed run's, byte for byte. A run that ends with status 0 in between must have
written these as well.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import psutil

from tests.support import soak
from tests.support.host import Environment, host_env, start_cli, wait_until
from tests.support.hub import serve
from tests.support.tvbench import REPOSITORY, make_tvbench

TASKS = "tvbench_flow_leaderboard,tvbench_flow_map,tvbench_flow_generation_probability"
MODEL = "--model llava_vid_flow --model_args pretrained=flow-tiny"
ARGUMENTS = [*f"{MODEL} --tasks {TASKS} --limit 1 --log_samples --output_path out".split()]
RANKS = ["--nproc_per_node", "2", "-m", "lmms_eval", *ARGUMENTS]
LIMIT = 900  # seconds of a run


@dataclass
class Disturbed:
    """One folder after another, in which runs are disturbed until one is left alone."""

    place: Path
    env: Environment
    random: Random
    undisturbed: Path
    whole: float = 0.0  # seconds that an undisturbed run takes
    statuses: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    told: int = 0
    ended: int = 0

    def run(self, folder: Path, disturb: Callable[[subprocess.Popen[str]], None] | None = None) -> int:
        """The status of a run in `folder`, which `disturb` may stop."""
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "log").open("w") as log:
            process = start_cli(ARGUMENTS, soak.in_one_order(self.env), cwd=folder, output=log)
            if disturb is not None:
                disturb(process)
            return process.wait(timeout=LIMIT)

    def once(self, folder: Path) -> None:
        """One disturbance of the run in `folder`."""
        kind = self.random.choice(sorted(KINDS))
        had = soak.answers(folder)
        status = KINDS[kind](self, folder)
        self.statuses[f"{kind}: {status}"] += 1
        new = soak.answers(folder) - had
        print(f"{kind}, status {status}, {new} new answers", flush=True)
        if status == 0 and kind != "a video is gone":
            self.compare(folder, f"{kind}, which ended by itself")
        if new < 0:
            self.wrong.append(f"{kind}: {-new} answers are lost")
        self.tell()

    def tell(self) -> None:
        """Prints what has gone wrong since the last time."""
        for each in self.wrong[self.told :]:
            print(f"WRONG: {each}", flush=True)
        self.told = len(self.wrong)

    def compare(self, folder: Path, what: str) -> None:
        """Whether the last results are the undisturbed run's."""
        differing = soak.differences(self.undisturbed, folder)
        if not list(folder.glob("out/**/*_results.json")):
            differing = ["no results"]
        missing = [
            name for name, content in arrays(self.undisturbed).items() if arrays(folder).get(name) != content
        ]
        if differing or missing:
            self.wrong.append(f"{what}: {', '.join([*differing, *missing])} in {folder}")

    def signalled(self, folder: Path, number: signal.Signals) -> int:
        """A run that gets a signal at a random moment; after its first answer it ends with the signal's status."""
        had, after = soak.answers(folder), self.random.uniform(0, self.whole)
        seen = 0

        def stop(process: subprocess.Popen[str]) -> None:
            nonlocal seen
            begin = time.monotonic()
            wait_until(lambda: time.monotonic() > begin + after, process)
            seen = soak.answers(folder) - had
            process.send_signal(number)

        status = self.run(folder, stop)
        named = {-number, 0} if number == signal.SIGKILL else {128 + number, 0}
        # Behind the last answer it is lmms-eval itself that is stopped.
        if soak.answers(folder) >= soak.answers(self.undisturbed):
            named.add(-number)
        if seen and status not in named:
            self.wrong.append(f"{number.name} after {seen} answers ended with {status}, see {folder}/log")
        return status

    def without_a_rank(self, folder: Path) -> int:
        """A run on two ranks, of which the second is killed."""
        after, begin = self.random.uniform(0, self.whole), time.monotonic()
        with (folder / "log").open("w") as log:
            env = soak.in_one_order(self.env) | {"ACCELERATE_USE_CPU": "true"}
            launcher = start_cli(RANKS, env, cwd=folder, program="torchrun", output=log)
            wait_until(lambda: time.monotonic() > begin + after, launcher)
            ranks = psutil.Process(launcher.pid).children() if launcher.poll() is None else []
            for rank in ranks:
                if rank.environ().get("RANK") == "1":
                    rank.send_signal(signal.SIGKILL)
            return launcher.wait(timeout=LIMIT)

    def beside_another(self, folder: Path) -> int:
        """Two runs on the records of one folder."""
        other = Path(tempfile.mkdtemp(prefix=f"{folder.name}-beside", dir=folder.parent))
        (folder / soak.RECORDS).mkdir(parents=True, exist_ok=True)
        (other / soak.RECORDS).symlink_to(folder / soak.RECORDS)
        with (folder / "log").open("w") as log:
            env = soak.in_one_order(self.env)
            both = [start_cli(ARGUMENTS, env, cwd=where, output=log) for where in (folder, other)]
            statuses = [process.wait(timeout=2 * LIMIT) for process in both]
        if any(statuses):
            self.wrong.append(f"two runs at once ended with {statuses}, see {folder}/log")
        self.compare(other, "the other of two runs")
        return max(statuses)

    def without_a_video(self, folder: Path) -> int:
        """A run that finds a video gone loses its questions alone, and says so; the video is there again afterwards."""
        clips = sorted(Path(self.env["HF_HOME"]).rglob("*.mp4"))
        clip = self.random.choice(clips)
        away = clip.with_suffix(".away")
        clip.rename(away)
        try:
            status = self.run(folder)
        finally:
            away.rename(clip)
        said = (folder / "log").read_text()
        # lmms-eval itself ends with 0 all the same, `lmms-flow eval` with 1.
        differing = soak.differences(self.undisturbed, folder) if status == 0 else []
        logs = [
            file for file in folder.glob("out/**/*_samples_*.jsonl") if file.name.partition("_samples_")[2]
        ]
        telling = {
            f"samples_{log.name.partition('_samples_')[2]}" for log in logs if clip.name in log.read_text()
        }
        others = [name for name in differing if name != "results.json" and name not in telling]
        if status not in (0, 1) or others or ((status or differing) and clip.name not in said):
            self.wrong.append(
                f"without {clip.name} a run ended with {status}: {others} differ, see {folder}/log"
            )
        return status


KINDS: dict[str, Callable[[Disturbed, Path], int]] = {
    "SIGINT": lambda it, folder: it.signalled(folder, signal.SIGINT),
    "SIGTERM": lambda it, folder: it.signalled(folder, signal.SIGTERM),
    "SIGKILL": lambda it, folder: it.signalled(folder, signal.SIGKILL),
    "a rank is killed": Disturbed.without_a_rank,
    "two runs": Disturbed.beside_another,
    "a video is gone": Disturbed.without_a_video,
}


def arrays(folder: Path) -> dict[str, bytes]:
    """What the traces keep, by the name of the file."""
    held = folder / soak.RECORDS / "arrays"
    return {str(file.relative_to(held)): file.read_bytes() for file in sorted(held.rglob("*.safetensors"))}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    end = time.monotonic() + args.minutes * 60
    with tempfile.TemporaryDirectory() as name, serve(Path(name, "hub")) as hub:
        make_tvbench(hub.folder("datasets", REPOSITORY), rows=1)
        env = host_env(hub, Path(name, "home"))
        it = Disturbed(Path(name), env, Random(args.seed), Path(name, "undisturbed"))
        begin = time.monotonic()
        statuses = [it.run(it.undisturbed)]
        it.whole = time.monotonic() - begin
        print(
            f"undisturbed: status {statuses[0]}, {soak.answers(it.undisturbed)} answers, {it.whole:.0f} s",
            flush=True,
        )
        if statuses[0] or not arrays(it.undisturbed):
            print((it.undisturbed / "log").read_text()[-3000:])
            return 1
        while time.monotonic() < end:
            folder = Path(name, f"run{it.ended}")
            folder.mkdir()
            for _ in range(it.random.randint(1, 4)):
                it.once(folder)
            if status := it.run(folder):
                it.wrong.append(f"left alone it ended with {status}: {(folder / 'log').read_text()[-1500:]}")
            else:
                it.compare(folder, "left alone")
            it.ended += 1
            it.tell()
            print(f"run {it.ended} is at its end, {len(it.wrong)} wrong so far", flush=True)
            if not it.wrong:
                shutil.rmtree(folder)
    times = ", ".join(f"{times} x {what}" for what, times in sorted(it.statuses.items()))
    print(f"seed {args.seed}: {it.ended} runs, {sum(it.statuses.values())} disturbances ({times})")
    print(f"{len(it.wrong)} wrong")
    return int(bool(it.wrong))


if __name__ == "__main__":
    sys.exit(main())
