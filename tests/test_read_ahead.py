"""Videos are read in threads, once each, and what goes wrong is told where the video is asked for."""

from __future__ import annotations

import threading
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lmms_flow.errors import SampleError
from lmms_flow.inputs.read_ahead import Clip, ReadAhead
from lmms_flow.inputs.video import read_frames
from lmms_flow.inputs.workers import Workers
from tests.support.clips import write_clip


@pytest.fixture
def clips(tmp_path: Path) -> list[str]:
    paths = [tmp_path / f"{i}.mp4" for i in range(6)]
    for seed, path in enumerate(paths):
        write_clip(path, frames=16, fps=8, seed=seed)
    return list(map(str, paths))


def test_what_is_read_ahead_is_what_would_have_been_read(clips: list[str]) -> None:
    wanted = [Clip(path, 4, start=0.5, end=1.5) for path in clips]
    with ReadAhead(threads=3) as reader:
        for clip in wanted:
            reader.announce(clip)
        for clip in reversed(wanted):
            frames, seconds = reader.take(clip)
            assert seconds > 0
            plain = read_frames(clip.path, 4, start=0.5, end=1.5)
            assert frames.indices == plain.indices
            assert np.array_equal(frames.pixels, plain.pixels)


def test_a_clip_is_read_once_and_in_another_thread(clips: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    reads: Counter[str] = Counter()
    threads = set()

    own_read = Workers.read

    def counted(self: Workers, clip: Clip, *rest: Any) -> Any:
        reads[clip.path] += 1
        threads.add(threading.current_thread().name)
        return own_read(self, clip, *rest)

    monkeypatch.setattr(Workers, "read", counted)
    clip = Clip(clips[0], 4)
    with ReadAhead(threads=2) as reader:
        reader.announce(clip)
        reader.announce(clip)  # another question about it
        assert reader.take(clip)[1] > 0
        assert reader.take(clip)[1] == 0, "its time is counted once"
        assert reads[clips[0]] == 1
        assert all(name.startswith("read-ahead") for name in threads)
        reader.take(clip)  # taken as often as announced, then read again
        assert reads[clips[0]] == 2
        reader.take(Clip(clips[1], 4))  # never announced: read here
    assert threading.current_thread().name in threads


def test_a_broken_video_is_an_error_where_it_is_asked_for(clips: list[str], tmp_path: Path) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(Path(clips[0]).read_bytes()[:300])
    with ReadAhead() as reader:
        reader.announce(Clip(str(broken), 4))
        reader.announce(Clip(clips[1], 4))
        with pytest.raises(SampleError, match=r"broken\.mp4"):
            reader.take(Clip(str(broken), 4))
        assert len(reader.take(Clip(clips[1], 4))[0].indices) == 4


def test_leaving_ends_the_threads(clips: list[str]) -> None:
    def reading() -> list[str]:
        return [thread.name for thread in threading.enumerate() if thread.name.startswith("read-ahead")]

    with ReadAhead(threads=1) as reader:
        for path in clips:
            reader.announce(Clip(path, 4))
        assert len(reading()) == 1
    assert not reading()
