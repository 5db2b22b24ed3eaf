"""Videos are decoded by processes of their own: what hangs is ended, what crashes takes nobody with it."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from lmms_flow.errors import SampleError
from lmms_flow.inputs import workers
from lmms_flow.inputs.clip import Clip
from lmms_flow.inputs.read_ahead import ReadAhead
from lmms_flow.inputs.workers import Workers
from scripts.videos.coded import encode, number

FakeDecord = Callable[[str], None]


@pytest.fixture
def clip(tmp_path: Path) -> str:
    return str(encode(tmp_path / "clip.mp4", frames=24))


@pytest.fixture
def fake_decord(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeDecord]:
    """Puts a decord before the installed one, for the processes that start from now on; its source is given."""

    def put(source: str) -> None:
        folder = tmp_path / "fake" / "decord"
        folder.mkdir(parents=True)
        (folder / "__init__.py").write_text(source)
        monkeypatch.setenv("PYTHONPATH", str(folder.parent))
        workers.end_idle()

    yield put
    workers.end_idle()


READER = """
import os, time
from types import SimpleNamespace
__version__ = "0.0"
logging = SimpleNamespace(set_level=lambda level: None)
cpu = lambda number: None
class VideoReader:
    def __init__(self, path, ctx, num_threads):
        {what}
"""


@pytest.mark.parametrize(
    ("what", "is_auto_right"),
    [
        ("raise RuntimeError('no')", True),
        ("os.abort()", True),
        ("os._exit(0)", True),
        ("time.sleep(1000)", False),
    ],
)
def test_a_decord_that_fails(what: str, is_auto_right: bool, clip: str, fake_decord: FakeDecord) -> None:
    fake_decord(READER.format(what=what))
    own = Workers()
    before = time.monotonic()
    if is_auto_right:
        frames = own.read(Clip(clip, 4), timeout=60)
        assert [number(picture) for picture in frames.pixels] == list(frames.indices)
        assert frames.reader.startswith("pyav")
    else:
        with pytest.raises(SampleError, match=r"not read within 8 s \(video_timeout\)") as error:
            own.read(Clip(clip, 4), timeout=8)
        assert error.value.path == clip
        assert time.monotonic() - before < 500, "it was ended"
    named = Clip(clip, 4, reader="decord")
    with pytest.raises(SampleError, match="reader=pyav|ended with status|not read within"):
        own.read(named, timeout=8 if is_auto_right else 2)
    assert own.read(Clip(clip, 4, reader="pyav")).reader.startswith("pyav"), "the next one is read"


@pytest.mark.parametrize("how", ["raise ImportError('no decord')", "raise OSError('libstdc++ is too old')"])
def test_without_decord_pyav_reads(how: str, clip: str, fake_decord: FakeDecord) -> None:
    fake_decord(how)
    own = Workers()
    frames = own.read(Clip(clip, 4))
    assert frames.reader.startswith("pyav")
    assert [number(picture) for picture in frames.pixels] == list(frames.indices)
    with pytest.raises(SampleError, match=r"reader=decord is not installed here \(.*write reader=pyav"):
        own.read(Clip(clip, 4, reader="decord"))


def test_a_process_is_used_again_and_a_dead_one_replaced(clip: str) -> None:
    workers.end_idle()
    own = Workers()
    for _ in range(3):
        own.read(Clip(clip, 4))
    (worker,) = workers._idle
    worker._process.kill()
    worker._process.wait()
    assert own.read(Clip(clip, 4)).indices == (2, 8, 14, 19)
    assert workers._idle != [worker]


def test_leaving_ends_what_is_being_read(clip: str, fake_decord: FakeDecord) -> None:
    """A run that ends does not wait for a video that hangs."""
    fake_decord(READER.format(what="time.sleep(1000)"))
    start = time.monotonic()
    with ReadAhead(threads=1) as reader:
        reader.announce(Clip(clip, 4))
        own = psutil.Process()
        while not any("lmms_flow.inputs.worker" in " ".join(_command(child)) for child in own.children()):
            assert time.monotonic() - start < 120
            time.sleep(0.05)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("read-ahead")]
    assert time.monotonic() - start < 500


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def test_a_process_ends_with_the_one_that_asks() -> None:
    """Its standard input ends, also where it was killed."""
    worker = workers._Worker()
    assert worker.is_alive
    assert worker._process.stdin is not None
    worker._process.stdin.close()
    assert worker._process.wait(timeout=120) == 0
    worker.end()


def test_a_relative_path_is_meant_where_it_is_asked(
    clip: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Workers().read(Clip(clip, 4))  # a process that was started elsewhere
    monkeypatch.chdir(tmp_path)
    assert Workers().read(Clip("clip.mp4", 4)).indices == (2, 8, 14, 19)
    (tmp_path / "text.mp4").write_text("no video\n" * 100)
    with pytest.raises(SampleError) as error:
        Workers().read(Clip("text.mp4", 4))
    assert error.value.path == "text.mp4"


def test_a_reader_that_there_is_not(clip: str) -> None:
    with pytest.raises(
        ValueError, match="videos are read by auto, decord, pyav, torchcodec, not by 'opencv'"
    ):
        Workers().read(Clip(clip, 4, reader="opencv"))
    assert os.path.exists(clip)
