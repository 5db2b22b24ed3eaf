"""Seeds small bugs one at a time and says how many the tests notice.

    python -m scripts.mutate                       600 drawn by rule and those of semantic.yaml; an hour or two
    python -m scripts.mutate --sample 0            only those of semantic.yaml
    python -m scripts.mutate --sample 50 --seed 1  fifty others
    python -m scripts.mutate --note tests/test_flow.py   first run the tests of a file anew

The first time, the quick tests are run once under coverage; of a mutant those are asked that run one of its lines.
Each result is written to benchmarks/results/mutants.jsonl at once, and the same command goes on behind it. The sources
are changed in a copy. A process that has imported torch and transformers once forks for each mutant; the first failure,
or a limit of time or memory, is its end. The test that failed is run without the bug as well: where it fails too, it
says nothing of the bug, and the others are asked again without it.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.util
import json
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Container, Iterable
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import psutil

from scripts.mutate.equivalent import entry_of, reason_of
from scripts.mutate.operators import ROOT, Mutant, mutants
from scripts.mutate.reached import MOST, Reached
from scripts.mutate.semantic import semantic_mutants

FOLDERS = ("lmms_flow/flow", "lmms_flow/engine", "lmms_flow/records", "lmms_flow/inputs")
FILES = ("lmms_flow/report/statistics.py", "lmms_flow/report/clusters.py", "lmms_flow/report/equivalence.py")
COPIED = ("lmms_flow", "model_wrappers", "tasks", "tests", "scripts", "examples", "docs", "benchmarks")
LIMIT = 600  # seconds of the processor for the tests of one mutant: more is taken for a loop
STANDS_STILL = 4 * LIMIT  # seconds of the clock: on a busy machine the processor's come slowly
MEMORY = 9 << 30  # bytes: more is taken for a loop as well
CAUGHT = ("caught", "too much")
OUT = ROOT / "out/mutate"
RESULTS = ROOT / "benchmarks/results/mutants.jsonl"


@cache
def everything() -> list[Mutant]:
    """All that are made by rule."""
    files = [path for folder in FOLDERS for path in sorted((ROOT / folder).glob("*.py"))]
    return [each for path in (*files, *(ROOT / name for name in FILES)) for each in mutants(path, ROOT)]


def drawn(count: int, seed: int, known: Container[str] = ()) -> list[Mutant]:
    """As many from every file as its share of all mutants, at random: first those asked before, by their ids.

    A line that is changed takes its mutants out of the sample, and others come in; all others stay.
    """

    def turn(mutant: Mutant) -> tuple[bool, str]:
        return mutant.id not in known, sha256(f"{seed} {mutant.id}".encode()).hexdigest()

    return sorted(everything(), key=turn)[:count]


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
    while time.monotonic() < end and not _takes_too_much(child):
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            code = os.waitstatus_to_exitcode(status)
            return "survived" if code == 0 else "caught"
        time.sleep(0.05)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return "too much"


def _takes_too_much(process: int) -> bool:
    try:
        it = psutil.Process(process)
        # Its own seconds, and those of what it started.
        return bool(sum(it.cpu_times()[:4]) > LIMIT or it.memory_info().rss > MEMORY)
    except psutil.Error:  # it has just ended
        return False


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


def ask(mutant: Mutant, tests: list[str], folder: Path) -> dict[str, Any]:
    """One mutant's line of the results."""
    file, begin = folder / mutant.file, time.monotonic()
    whole = file.read_text(encoding="utf-8")
    while True:
        try:
            _write(file, mutant.source)
            found = outcome(folder, tests) if tests else "survived"
        finally:
            _write(file, whole)
        failed = (
            folder / FAILED
        )  # not there where not even pytest's own files could be read: then any test does
        by = (failed.read_text() if failed.is_file() else tests[0]) if found == "caught" else ""
        if not by or passes_without(folder, by):
            break
        tests = [test for test in tests if test != by and not test.startswith(f"{by}::")]  # of no account
    seconds = round(time.monotonic() - begin, 1)
    about = {"id": mutant.id, "by_hand": mutant.is_by_hand, "file": mutant.file, "line": mutant.lines.start}
    about |= {"text": mutant.text, "at": mutant.at, "what": mutant.what}
    return {**about, "outcome": found, "tests": len(tests), "seconds": seconds, "by": by}


def _write(file: Path, source: str) -> None:
    """What Python has compiled is looked up by the second and the size, which may be the same."""
    file.write_text(source, encoding="utf-8")
    with contextlib.suppress(FileNotFoundError):
        os.unlink(importlib.util.cache_from_source(str(file)))


_PASSES: dict[str, bool] = {}


def passes_without(folder: Path, test: str) -> bool:
    """Whether a test, or all tests of a file that could not be read, passes where nothing is changed."""
    if test not in _PASSES:
        asked = [test] if "::" in test else ["--collect-only", test]
        _PASSES[test] = outcome(folder, asked) == "survived"
    return _PASSES[test]


def told(lines: Iterable[dict[str, Any]], by_hand: bool) -> str:
    """The score of some results; mutants that change nothing are none."""
    asked = [line for line in lines if line["by_hand"] is by_hand]
    real = [line for line in asked if line["outcome"] in CAUGHT or not reason_of(line)]
    caught = sum(line["outcome"] in CAUGHT for line in real)
    same = f", {len(asked) - len(real)} that change nothing left out" if len(asked) > len(real) else ""
    kind = "by hand" if by_hand else "by rule"
    return f"{kind}: {caught} of {len(real)} caught ({caught / max(1, len(real)):.1%}){same}"


_COPY: list[Path] = []


def _begin(modules: list[str], place: Path) -> None:
    """A worker's own copy, and what every test would import anew, under the tests' settings."""
    import tests.conftest  # noqa: F401

    for name in modules:
        with contextlib.suppress(Exception):
            importlib.import_module(name)
    folder = Path(tempfile.mkdtemp(dir=place)).resolve()
    copy_of_sources(folder)
    _COPY.append(folder)


def _ask(mutant: Mutant, tests: list[str]) -> dict[str, Any]:
    return ask(mutant, tests, _COPY[0])


def run(asked: list[Mutant], reached: Reached, results: Path, jobs: int, minutes: float) -> None:
    """Ask about each mutant, and write down what is found."""
    end = time.monotonic() + minutes * 60 if minutes else float("inf")
    waiting, fork = list(asked), multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory() as name, results.open("a") as file:
        begun = (reached.modules(), Path(name))
        with ProcessPoolExecutor(jobs, mp_context=fork, initializer=_begin, initargs=begun) as pool:
            running: set[Future[dict[str, Any]]] = set()
            while waiting or running:
                while waiting and len(running) < jobs and time.monotonic() < end:
                    mutant = waiting.pop(0)
                    running.add(pool.submit(_ask, mutant, reached.tests(mutant)))
                if not running:
                    return
                ended = next(as_completed(running))
                running.remove(ended)
                line = ended.result()
                file.write(json.dumps(line) + "\n")
                file.flush()
                print(
                    f"{len(waiting) + len(running):4} left  {line['outcome']:9} {line['seconds']:6.1f} s  "
                    f"{line['file']}:{line['line']}  {line['what']}",
                    flush=True,
                )


def read(results: Path) -> dict[str, dict[str, Any]]:
    """The results so far, by the mutant."""
    lines = results.read_text().splitlines() if results.is_file() else []
    return {line["id"]: line for line in map(json.loads, lines)}


def tidied(results: Path, there: Container[str]) -> dict[str, dict[str, Any]]:
    """The results, by the mutant; the file keeps the last of each, and none of a line that has changed since."""
    found = {name: line for name, line in read(results).items() if name in there}
    kept = "".join(f"{json.dumps(line)}\n" for line in found.values())
    if results.is_file() and results.read_text() != kept:
        results.write_text(kept)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.mutate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--sample", type=int, default=600, help="mutants by rule (600)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="at once (one a core)")
    parser.add_argument("--minutes", type=float, default=0, help="stop then; 0: go on to the end")
    parser.add_argument("--seconds", type=float, default=MOST, help=f"of tests, for each mutant ({MOST})")
    parser.add_argument("--note", nargs="+", default=[], help="test files to be run under coverage anew")
    parser.add_argument(
        "--first", nargs="+", default=[], help="beginnings of the names of tests to ask first"
    )
    parser.add_argument("--again", action="store_true", help="ask again about those that were not caught")
    parser.add_argument("--results", type=Path, default=RESULTS)
    args = parser.parse_args()
    by_hand = list(semantic_mutants())
    done = read(args.results)
    by_rule = drawn(args.sample, args.seed, done)
    reached = Reached(OUT, args.seconds, args.first)
    if args.note or not reached.is_there:
        reached.note(args.jobs, args.note)
    args.results.parent.mkdir(parents=True, exist_ok=True)
    asked = [*by_hand, *by_rule]
    again = {line["id"] for line in done.values() if line["outcome"] not in CAUGHT and not reason_of(line)}
    left = [mutant for mutant in asked if mutant.id not in done or (args.again and mutant.id in again)]
    run(left, reached, args.results, args.jobs, args.minutes)
    done = tidied(args.results, {mutant.id for mutant in (*by_hand, *everything())})
    answered = [done[mutant.id] for mutant in asked if mutant.id in done]
    for line in answered:
        if line["outcome"] not in CAUGHT and not reason_of(line):
            print(
                f"# {line['outcome']}: line {line['line']}, {line['tests']} tests\n{entry_of(line)}", end=""
            )
    print(told(answered, by_hand=True))
    print(told(answered, by_hand=False))
    print(f"{len(answered)} of {len(asked)} asked")
    return 0


if __name__ == "__main__":
    sys.exit(main())
