"""Which tests run which lines: the quick tests are run once under coverage, which notes it for each."""

from __future__ import annotations

import ast
import contextlib
import json
import os
import sqlite3
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from functools import cache, cached_property
from itertools import chain
from pathlib import Path

from coverage import CoverageData

from scripts.mutate.operators import ROOT, Mutant

MOST = 60  # seconds that the tests of a mutant take together, as they were timed
# Videos are decoded in a process of its own, whose lines coverage does not see; these read videos.
DECODING = "lmms_flow/inputs/worker.py"
READING = (
    *("bitstream", "readers", "sampling", "video", "videos", "own_times", "read_ahead", "shared_videos"),
    "flowbench_containers",
)


class Reached:
    """What was noted in `folder`: `data` of coverage, and `seconds.json` of each test.

    `first` are beginnings of the names of tests, which are asked before others.
    """

    def __init__(self, folder: Path, most: float = MOST, first: Sequence[str] = ()) -> None:
        self.folder, self.most, self.first = folder, most, tuple(first)

    @property
    def is_there(self) -> bool:
        """Whether the tests have been run."""
        return (self.folder / "seconds.json").is_file()

    def note(self, jobs: int, tests: Iterable[str] = ()) -> None:
        """Run the quick tests, or those of some files anew."""
        self.folder.mkdir(parents=True, exist_ok=True)
        tests = list(tests)
        options = [
            "-q",
            "-m",
            "not host",
            "-n",
            str(jobs),
            "--dist",
            "loadfile",
            "-p",
            "scripts.mutate.seconds",
        ]
        covered = ["--cov", "--cov-report=", "--cov-context=test", *(["--cov-append"] if tests else [])]
        env = os.environ | {"COVERAGE_FILE": str(self.folder / "data"), "MUTATE_SECONDS": str(self.folder)}
        subprocess.run([sys.executable, "-m", "pytest", *options, *covered, *tests], cwd=ROOT, env=env)

    def modules(self) -> list[str]:
        """What the tests load of others."""
        return sorted(
            {name for file in self.folder.glob("modules-*.json") for name in json.loads(file.read_text())}
        )

    @cached_property
    def seconds(self) -> dict[str, float]:
        """How long each test takes, with what it sets up."""
        read: dict[str, float] = json.loads((self.folder / "seconds.json").read_text())
        return read

    @cached_property
    def _data(self) -> CoverageData:
        data = CoverageData(str(self.folder / "data"))
        data.read()
        return data

    @cached_property
    def lines_of(self) -> Counter[str]:
        """How many lines of the package each test runs."""
        found: Counter[str] = Counter()
        with contextlib.closing(sqlite3.connect(self.folder / "data")) as opened:
            rows = "select context.context, numbits from line_bits join context on context.id = context_id"
            for context, bits in opened.execute(rows):
                found[context.partition("|")[0]] += int.from_bytes(bits).bit_count()
        return found

    def _noted(self, file: str) -> dict[int, set[str]]:
        """What ran each line of a file, in whatever checkout."""
        found: dict[int, set[str]] = defaultdict(set)
        for measured in self._data.measured_files():
            if measured.endswith(f"/{file}"):
                for line, contexts in self._data.contexts_by_lineno(measured).items():
                    found[line].update(contexts)
        return found

    def tests(self, mutant: Mutant) -> list[str]:
        """The tests that run a line of the mutant; of a line that runs on import, those that run any of its file.

        In turn the one that runs the fewest lines, and the quickest of a test file: first of each, then the second of
        each, until they take `most` seconds together.
        """
        noted = self._noted(mutant.file)
        found = _names(noted.get(line, ()) for line in mutant.lines)
        if mutant.file in _decoding():
            readers = tuple(f"tests/test_{name}.py::" for name in READING)
            found |= {name for name in self.seconds if name.startswith(readers)}
        if not found:
            found = _names(noted.values()) | {name for name in self.seconds if name.startswith(self.first)}
        found &= self.seconds.keys()
        narrow = sorted(found, key=lambda name: (self.lines_of[name], name))
        own = f"tests/test_{Path(mutant.file).stem}.py"
        in_turn = chain.from_iterable(zip(narrow, self._in_turns(found, own), strict=True))
        asked: dict[str, float] = {}
        for name in sorted(dict.fromkeys(in_turn), key=lambda name: not name.startswith(self.first)):
            if asked and sum(asked.values()) + self.seconds[name] > self.most:
                break
            asked[name] = self.seconds[name]
        # A file's tests stand together: what they share is made once.
        first = {name.partition("::")[0]: place for place, name in reversed(list(enumerate(asked)))}
        return sorted(asked, key=lambda name: first[name.partition("::")[0]])

    def _in_turns(self, names: set[str], own: str) -> list[str]:
        by_file: dict[str, list[str]] = defaultdict(list)
        for name in sorted(names, key=lambda name: (self.seconds[name], name)):
            by_file[name.partition("::")[0]].append(name)
        turns = sorted(
            (turn, file != own, self.seconds[name], name)
            for file, among in by_file.items()
            for turn, name in enumerate(among)
        )
        return [name for *_, name in turns]


def _names(contexts: Iterable[Iterable[str]]) -> set[str]:
    return {each.partition("|")[0] for line in contexts for each in line if each}


@cache
def _decoding() -> set[str]:
    """The files of the process that decodes: what it imports of its own folder."""
    found: set[str] = set()
    waiting = [DECODING]
    while waiting:
        file = waiting.pop()
        if file in found:
            continue
        found.add(file)
        for node in ast.walk(ast.parse((ROOT / file).read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("lmms_flow.inputs"):
                names = (node.module or "", *(f"{node.module}.{each.name}" for each in node.names))
                files = [f"{name.replace('.', '/')}.py" for name in names]
                waiting += [each for each in files if (ROOT / each).is_file()]
    return found
