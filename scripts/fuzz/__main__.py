"""Feeds every reader with hostile inputs; exit status 1 where anything but our own errors comes out.

    python -m scripts.fuzz                          a million inputs, some minutes
    python -m scripts.fuzz --share 0.01             a hundredth of them
    python -m scripts.fuzz --only language:12345    one input again, with its traceback

Input number n of a reader is the same in every run of one seed.
"""

from __future__ import annotations

import argparse
import os
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from loguru import logger

from lmms_flow.errors import UserError
from scripts.fuzz import files, texts

Reader = Callable[[Random, Path], None]
READERS: dict[str, tuple[Reader, int]] = {  # the cheap ones first, and how many inputs each is given
    "bitstream": (files.bitstream, 150_000),
    "journal_line": (files.journal_line, 150_000),
    "record": (files.record, 200_000),
    "trace_settings": (files.trace_settings, 30_000),
    "prompt": (texts.prompt, 60_000),
    "language": (texts.language, 400_000),
    "flow_yaml": (texts.flow_yaml, 20_000),
    "arrays": (files.arrays, 5_000),
    "results": (files.results, 2_000),
    "video_header": (files.video_header, 1_000),
}
SECONDS = 20  # for one input; a video's own limit is 30
SLOW = {"video_header": 60}
LONGEST = 4000  # characters of an error


class TooSlowError(BaseException):
    """An input took longer than any may."""


@dataclass
class Outcome:
    """What one reader made of its inputs."""

    read: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    failures: dict[str, tuple[str, int]] = field(default_factory=dict)  # where -> input, how often
    slowest: tuple[float, int] = (0.0, 0)

    def fail(self, where: str, name: str) -> None:
        first, count = self.failures.get(where, (name, 0))
        self.failures[where] = first, count + 1


@contextmanager
def limited(seconds: int) -> Iterator[None]:
    def stop(*_: object) -> None:
        raise TooSlowError

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)


def feed(name: str, number: int, seed: int, folder: Path) -> None:
    """One input. Raises what comes out of the reader."""
    reader, _ = READERS[name]
    with limited(SLOW.get(name, SECONDS)):
        reader(Random(f"{seed}:{name}:{number}"), folder)


def run(name: str, count: int, seed: int, folder: Path) -> Outcome:
    """So many inputs for one reader."""
    found = Outcome()
    for number in range(count):
        begin = time.monotonic()
        try:
            feed(name, number, seed, folder)
            found.read += 1
        except UserError as error:
            found.refused[type(error).__name__] += 1
            if "\n" in str(error) or len(str(error)) > LONGEST:
                found.fail(f"{type(error).__name__} that is no line, or too long a one", f"{name}:{number}")
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            last = traceback.extract_tb(error.__traceback__)[-1]
            where = f"{type(error).__name__} in {os.path.basename(last.filename)}, line {last.lineno}"
            found.fail(where, f"{name}:{number}")
        found.slowest = max(found.slowest, (time.monotonic() - begin, number))
    return found


def memory() -> int:
    """The most that this process and any that it started have held, in MiB."""
    both = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return max(resource.getrusage(each).ru_maxrss for each in both) // 1024


def main(given: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m scripts.fuzz", description=__doc__.splitlines()[0])
    parser.add_argument("--readers", default=",".join(READERS), help="some of them, joined by commas")
    parser.add_argument("--share", type=float, default=1.0, help="of the inputs (1)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", metavar="READER:NUMBER", help="one input, with its traceback")
    args = parser.parse_args(given)
    logger.disable("lmms_flow")
    with tempfile.TemporaryDirectory() as name:
        if args.only:
            reader, _, number = args.only.partition(":")
            feed(reader, int(number), args.seed, Path(name))
            return 0
        total = failed = 0
        for reader in args.readers.split(","):
            count = max(1, round(READERS[reader][1] * args.share))
            folder = Path(name, reader)
            folder.mkdir()
            begin = time.monotonic()
            found = run(reader, count, args.seed, folder)
            total += count
            failed += sum(times for _, times in found.failures.values())
            refused = ", ".join(f"{times} {kind}" for kind, times in found.refused.most_common())
            seconds, number = found.slowest
            print(
                f"{reader}: {count} inputs, {found.read} read, refused: {refused or 'none'}; slowest {seconds:.2f} s "
                f"(:{number}); {time.monotonic() - begin:.0f} s in all; at most {memory()} MiB",
                flush=True,
            )
            for where, (first, times) in found.failures.items():
                print(f"  FAILED {times} times: {where}, first by {first}", flush=True)
    print(f"{total} inputs, {failed} failures (seed {args.seed})")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
