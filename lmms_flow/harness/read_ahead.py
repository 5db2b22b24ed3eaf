"""Reads videos in threads before they are asked for, so that the model does not wait for the decoder."""

from __future__ import annotations

import os
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from threading import Lock
from types import TracebackType

from lmms_flow.harness.video import Frames, read_frames


@dataclass(frozen=True)
class Clip:
    """Which frames of which file; times in seconds."""

    path: str
    num_frames: int
    start: float | None = None
    end: float | None = None
    sampling: str = "midpoints"

    def read(self) -> Frames:
        """Decodes them; see `read_frames` for what it raises."""
        return read_frames(self.path, self.num_frames, self.start, self.end, self.sampling)


class ReadAhead:
    """A few reading threads. A clip is read once, when it is announced or else when it is asked for.

    What goes wrong in a thread is raised where the clip is asked for.
    """

    def __init__(self, threads: int | None = None) -> None:
        cores = os.cpu_count() or 1
        self._threads = ThreadPoolExecutor(
            threads or max(1, min(4, cores - 1)), thread_name_prefix="read-ahead"
        )
        self._coming: dict[Clip, Future[Frames]] = {}
        self._lock = Lock()

    def announce(self, clip: Clip) -> None:
        """Starts to read a clip that will be asked for soon."""
        with self._lock:
            if clip not in self._coming:
                self._coming[clip] = self._threads.submit(clip.read)

    def take(self, clip: Clip) -> Frames:
        """The clip's frames; they are not kept."""
        with self._lock:
            coming = self._coming.pop(clip, None)
        return clip.read() if coming is None else coming.result()

    def __enter__(self) -> ReadAhead:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._threads.shutdown(wait=True, cancel_futures=True)
        self._coming.clear()
