"""Processes that decode videos for this one: what hangs is ended, and what crashes takes nobody with it."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import subprocess
import sys
import threading
from dataclasses import asdict, replace
from pathlib import Path
from typing import IO, Any

import numpy as np

from lmms_flow.errors import SampleError
from lmms_flow.inputs.clip import ANY_READER, Clip, Frames, existing_file

TIMEOUT = 600  # seconds for one video
_ROOT = Path(__file__).parents[2]  # where the package is imported from, also by a worker


_lock = threading.Lock()
_idle: list[_Worker] = []  # kept for whoever reads next


class Workers:
    """Reads clips, several at the same time if asked to, each in a process."""

    def __init__(self) -> None:
        self._busy: set[_Worker] = set()
        self._closed = False

    def read(self, clip: Clip, timeout: float = TIMEOUT) -> Frames:
        """Raises SampleError; ValueError for a clip that no file can have."""
        clip.check()
        existing_file(clip.path)
        try:
            return self._read(clip, timeout)
        except _CrashError as crash:
            if clip.reader != ANY_READER or self._closed:
                raise SampleError(f"the video can't be read ({crash})", path=clip.path) from None
        try:  # decord is the one that crashes
            return self._read(replace(clip, reader="pyav"), timeout)
        except _CrashError as crash:
            raise SampleError(f"the video can't be read ({crash})", path=clip.path) from None

    def _read(self, clip: Clip, timeout: float) -> Frames:
        worker = self._take(clip)
        try:
            frames = worker.read(clip, timeout)
        except _TooLateError:
            self._end(worker)
            line = f"the video was not read within {timeout:g} s (video_timeout)"
            raise SampleError(line, path=clip.path) from None
        except SampleError:
            self._give_back(worker)
            raise
        except BaseException:
            self._end(worker)
            raise
        self._give_back(worker)
        return frames

    def _take(self, clip: Clip) -> _Worker:
        with _lock:
            if self._closed:
                raise SampleError("videos are not read any more: the run ends", path=clip.path)
            worker = _idle.pop() if _idle else _Worker()
            if not worker.is_alive:
                worker.end()
                worker = _Worker()
            self._busy.add(worker)
            return worker

    def _give_back(self, worker: _Worker) -> None:
        with _lock:
            if worker in self._busy:
                self._busy.discard(worker)
                _idle.append(worker)

    def _end(self, worker: _Worker) -> None:
        with _lock:
            self._busy.discard(worker)
        worker.end()

    def close(self) -> None:
        """What is being read ends in an error."""
        with _lock:
            self._closed = True
            workers, self._busy = self._busy, set()
        for worker in workers:
            worker.end()


@atexit.register
def end_idle() -> None:
    """Ends the processes that read nothing."""
    with _lock:
        workers = _idle[:]
        _idle.clear()
    for worker in workers:
        worker.end()


class _CrashError(Exception):
    """The process ended, or does not speak as it should; the words say how."""


class _TooLateError(Exception):
    pass


class _Worker:
    """One process; it answers one clip after another."""

    def __init__(self) -> None:
        paths = [str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        self._process = subprocess.Popen(
            [sys.executable, "-c", "from lmms_flow.inputs.worker import main; main()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONSAFEPATH": "1"},
        )

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def read(self, clip: Clip, timeout: float) -> Frames:
        """Raises _TooLateError or _CrashError, and is of no use any more; or SampleError."""
        late = threading.Event()

        def give_up() -> None:
            late.set()
            self._process.kill()

        timer = threading.Timer(timeout, give_up)
        timer.daemon = True
        timer.start()
        try:
            return self._answer(clip)
        except (OSError, EOFError, ValueError) as error:
            if late.is_set():
                raise _TooLateError from None
            status = self._process.poll() if isinstance(error, OSError) else self._process.wait()
            raise _CrashError(f"the process that decodes it ended with status {status}") from None
        finally:
            timer.cancel()

    def _answer(self, clip: Clip) -> Frames:
        requests, answers = self._process.stdin, self._process.stdout
        assert requests is not None
        assert answers is not None
        request = asdict(replace(clip, path=os.path.abspath(clip.path)))
        requests.write(json.dumps(request).encode() + b"\n")
        requests.flush()
        line = answers.readline()
        if not line.endswith(b"\n"):
            raise EOFError
        answer = json.loads(line)
        if "error" in answer:
            raise SampleError(answer["error"], path=clip.path)
        return _frames(answer, answers)

    def end(self) -> None:
        with contextlib.suppress(OSError):
            self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError, ValueError):
                if pipe is not None:
                    pipe.close()


def _frames(answer: dict[str, Any], pipe: IO[bytes]) -> Frames:
    """Pixels follow the line as bytes."""
    pixels = np.empty(answer.pop("shape"), np.uint8)
    rest = memoryview(pixels.reshape(-1))  # type: ignore[arg-type]
    while rest:
        count = pipe.readinto(rest)  # type: ignore[attr-defined]
        if not count:
            raise EOFError
        rest = rest[count:]
    for name in ("indices", "times", "shown", "notes", "places"):
        answer[name] = tuple(answer[name])
    return Frames(pixels, **answer)
