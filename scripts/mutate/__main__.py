"""Seeds small bugs one at a time and says how many the tests notice.

    python -m scripts.mutate                       600 drawn by rule and those of semantic.py; an hour or several
    python -m scripts.mutate --sample 0            only those of semantic.py
    python -m scripts.mutate --sample 50 --seed 1  fifty others

Each result is written to out/mutants.jsonl at once, and the same command goes on behind it. The sources are changed in
a copy. A process that has imported torch and transformers once forks for each mutant; only the test files of its file
are run, and the first failure, or a time limit, is its end. The test that failed is run without the bug as well: where
it fails too, nothing was caught, and the run ends.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import psutil

from scripts.mutate.equivalent import EQUIVALENT
from scripts.mutate.operators import Mutant, mutants
from scripts.mutate.semantic import semantic_mutants
from scripts.mutate.suites import ROOT, suite_of

FOLDERS = ("lmms_flow/flow", "lmms_flow/engine", "lmms_flow/records", "lmms_flow/inputs")
FILES = ("lmms_flow/report/statistics.py", "lmms_flow/report/clusters.py", "lmms_flow/report/equivalence.py")
COPIED = ("lmms_flow", "model_wrappers", "tasks", "tests", "scripts", "examples", "docs", "benchmarks")
LIMIT = 900  # seconds of the processor for the tests of one mutant: more is taken for a loop
STANDS_STILL = 6 * LIMIT  # seconds of the clock: on a busy machine the processor's come slowly
CAUGHT = ("caught", "too long")


def drawn(count: int, seed: int) -> list[Mutant]:
    """As many from every file as its share of all mutants, at random."""
    files = [path for folder in FOLDERS for path in sorted((ROOT / folder).glob("*.py"))]
    everything = [each for path in (*files, *(ROOT / name for name in FILES)) for each in mutants(path, ROOT)]
    return random.Random(seed).sample(everything, min(count, len(everything)))


def copy_of_sources(folder: Path) -> None:
    """The sources and the tests; the installed package's two other folders are linked to where Python looks."""
    for name in COPIED:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for file in (*ROOT.glob("*.toml"), *ROOT.glob("*.cfg"), *ROOT.glob("*.md"), ROOT / "Makefile"):
        shutil.copy(file, folder)
    for name in ("model_wrappers", "tasks"):
        (folder / "lmms_flow" / name).symlink_to(folder / name)


FAILED = ".failed"  # in the copy: the test that failed first


def outcome(folder: Path, tests: Iterable[str]) -> str:
    """What the tests say, run in a fork of this process."""
    (folder / FAILED).unlink(missing_ok=True)
    child = os.fork()
    if child == 0:
        os.setsid()
        _run_tests(folder, list(tests))
    end = time.monotonic() + STANDS_STILL
    while time.monotonic() < end and _processor_seconds(child) < LIMIT:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            code = os.waitstatus_to_exitcode(status)
            return "survived" if code == 0 else "caught"
        time.sleep(0.05)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return "too long"


def _processor_seconds(process: int) -> float:
    try:
        return sum(psutil.Process(process).cpu_times()[:4])  # its own, and those of what it started
    except psutil.Error:  # it has just ended
        return 0.0


def _run_tests(folder: Path, tests: list[str]) -> None:
    """Never returns."""
    try:
        os.chdir(folder)
        silent = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silent, 1)
        os.dup2(silent, 2)
        sys.path[:] = [str(folder), *(path for path in sys.path if path not in ("", str(ROOT)))]
        os.environ["PYTHONPATH"] = str(folder)
        for name in [
            name for name in sys.modules if name.partition(".")[0] in ("lmms_flow", "scripts", "tests")
        ]:
            del sys.modules[name]
        import pytest

        class Watch:
            """Notes the first failure of a test, or of reading its file."""

            def pytest_runtest_logreport(self, report: Any) -> None:
                if report.failed:
                    (folder / FAILED).write_text(report.nodeid)

            pytest_collectreport = pytest_runtest_logreport

        options = [
            "-x",
            "-q",
            "-m",
            "not host",
            "-p",
            "no:cacheprovider",
            "-p",
            "no:xdist",
            "--rootdir",
            str(folder),
        ]
        os._exit(int(pytest.main([*options, *tests], plugins=[Watch()])))
    except BaseException:
        os._exit(99)


def ask(mutant: Mutant, folder: Path) -> dict[str, Any]:
    """One mutant's line of the results."""
    file, begin = folder / mutant.file, time.monotonic()
    whole = file.read_text(encoding="utf-8")
    tests = suite_of(mutant.file)
    try:
        file.write_text(mutant.source, encoding="utf-8")
        found = outcome(folder, tests)
    finally:
        file.write_text(whole, encoding="utf-8")
    seconds = round(time.monotonic() - begin, 1)
    by = (folder / FAILED).read_text() if found == "caught" and (folder / FAILED).is_file() else ""
    if found == "caught" and (not by or not passes_without(folder, by)):
        raise SystemExit(f"{by or tests} fails without a bug as well: nothing is known of {mutant.file}")
    about = {"id": mutant.id, "file": mutant.file, "line": mutant.line, "what": mutant.what}
    return {**about, "outcome": found, "seconds": seconds, "by": by}


_PASSES: dict[str, bool] = {}


def passes_without(folder: Path, test: str) -> bool:
    """Whether a test, or all tests of a file that could not be read, passes where nothing is changed."""
    if test not in _PASSES:
        _PASSES[test] = outcome(folder, [test]) == "survived"
    return _PASSES[test]


def told(lines: list[dict[str, Any]], name: str) -> str:
    """The score of some mutants; those that change nothing are no mutants."""
    real = [line for line in lines if line["id"] not in EQUIVALENT]
    caught = sum(line["outcome"] in CAUGHT for line in real)
    same = f", {len(lines) - len(real)} that change nothing left out" if len(lines) > len(real) else ""
    return f"{name}: {caught} of {len(real)} caught ({caught / max(1, len(real)):.1%}){same}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m scripts.mutate", description=__doc__.splitlines()[0])
    parser.add_argument("--sample", type=int, default=600, help="mutants by rule (600)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=0, help="stop then; 0: go on to the end")
    parser.add_argument("--results", type=Path, default=ROOT / "out/mutants.jsonl")
    args = parser.parse_args()
    by_hand = list(semantic_mutants())
    asked = [*by_hand, *drawn(args.sample, args.seed)]
    args.results.parent.mkdir(parents=True, exist_ok=True)
    args.results.touch()
    done = {line["id"]: line for line in map(json.loads, args.results.read_text().splitlines())}
    import torch  # noqa: F401  (once, before the forks)
    import transformers.modeling_utils  # noqa: F401

    end = time.monotonic() + args.minutes * 60 if args.minutes else None
    with tempfile.TemporaryDirectory() as name, args.results.open("a") as results:
        folder = Path(name).resolve()
        copy_of_sources(folder)
        for mutant in asked:
            if mutant.id in done or (end and time.monotonic() > end):
                continue
            done[mutant.id] = line = ask(mutant, folder)
            results.write(json.dumps(line) + "\n")
            results.flush()
            print(
                f"{line['outcome']:8} {line['seconds']:6.1f} s  {mutant.file}:{mutant.line}  {mutant.what}",
                flush=True,
            )
    answered = [done[mutant.id] for mutant in asked if mutant.id in done]
    hand = {mutant.id for mutant in by_hand}
    for line in answered:
        if line["outcome"] not in CAUGHT:
            reason = EQUIVALENT.get(line["id"], "")
            print(f"survived: {line['file']}:{line['line']}  {line['what']}  [{line['id']}] {reason}")
    print(told([line for line in answered if line["id"] in hand], "by hand"))
    print(told([line for line in answered if line["id"] not in hand], "by rule"))
    print(f"{len(answered)} of {len(asked)} asked")
    return 0


if __name__ == "__main__":
    sys.exit(main())
