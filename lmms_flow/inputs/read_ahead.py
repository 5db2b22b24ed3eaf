"""Reads videos in threads before they are asked for, so that the model does not wait for the decoder."""

from __future__ import annotations

import os
import time
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

from lmms_flow.inputs.clip import Clip, Frames
from lmms_flow.inputs.workers import TIMEOUT, Workers


class ReadAhead:
    """A few reading threads, each with its process.

    A clip that is announced several times is read once and kept until it was taken as often.
    What goes wrong in a thread is raised where the clip is asked for. ``timeout``: seconds a video may take.
    """

    def __init__(self, threads: int | None = None, timeout: float = TIMEOUT) -> None:
        self._timeout = timeout
        self._workers = Workers()
        cores = os.cpu_count() or 1
        self._threads = ThreadPoolExecutor(
            threads or max(1, min(4, cores - 1)), thread_name_prefix="read-ahead"
        )
        self._coming: dict[Clip, Future[tuple[Frames, float]]] = {}
        self._wanted: Counter[Clip] = Counter()
        self._taken: set[Clip] = set()

    def announce(self, clip: Clip) -> None:
        """Starts to read a clip that will be asked for soon."""
        self._wanted[clip] += 1
        if clip not in self._coming:
            self._coming[clip] = self._threads.submit(self._read, clip)

    def take(self, clip: Clip) -> tuple[Frames, float]:
        """The clip's frames, and the seconds that they took to read: 0 for all but the first that takes them."""
        coming = self._coming.get(clip)
        if coming is None:
            return self._read(clip)
        first = clip not in self._taken
        self._taken.add(clip)
        self._wanted[clip] -= 1
        if self._wanted[clip] <= 0:
            self._forget(clip)
        frames, seconds = coming.result()
        return frames, seconds if first else 0.0

    def _read(self, clip: Clip) -> tuple[Frames, float]:
        """The frames, and the seconds that it took to decode them; see `read_frames` for what it raises."""
        start = time.perf_counter()
        frames = self._workers.read(clip, self._timeout)
        return frames, time.perf_counter() - start

    def _forget(self, clip: Clip) -> None:
        del self._coming[clip], self._wanted[clip]
        self._taken.discard(clip)

    def __enter__(self) -> ReadAhead:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._workers.close()
        self._threads.shutdown(wait=True, cancel_futures=True)
        self._coming.clear()


__all__ = ["Clip", "ReadAhead"]
