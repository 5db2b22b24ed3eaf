"""Files of strangers: nothing in them runs, nothing leaves its folder, what they say is shown as text."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest

import lmms_flow
from lmms_flow.assets import flow_tiny_dir, flowbench_dir
from lmms_flow.errors import CheckpointError, FlowError, RecordError, SampleError, UserError
from lmms_flow.flow import Flow
from lmms_flow.inputs.video import read_frames
from lmms_flow.records.arrays import read_arrays
from lmms_flow.records.journal import Journal, read_journal
from lmms_flow.records.record import SampleRecord
from lmms_flow.report.compare import compare
from tests.support.lmms_logs import record, write_log

TRACE = "the code of a stranger was here"


class Trap:
    """Pickled, it writes a file where it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.system, (f"echo '{TRACE}' > '{self.trace}'",))


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    return tmp_path / "trace"


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return Path(shutil.copytree(flow_tiny_dir(), tmp_path / "model"))


def refusal(folder: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        lmms_flow.load(str(folder), device="cpu")
    assert str(caught.value).isprintable()
    return str(caught.value)


# Checkpoints


def test_the_trap_of_these_tests_works(trace: Path) -> None:
    pickle.loads(pickle.dumps(Trap(trace)))
    assert trace.read_text().strip() == TRACE


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors", "pytorch_model.bin.index.json"])
def test_pickled_weights_are_not_unpickled(name: str, checkpoint: Path, trace: Path) -> None:
    (checkpoint / "model.safetensors").unlink()
    (checkpoint / name).write_bytes(pickle.dumps(Trap(trace)))
    refusal(checkpoint)
    assert not trace.exists()


def test_pickles_beside_the_weights_and_code_of_the_repository_are_left_alone(
    checkpoint: Path, trace: Path
) -> None:
    for name in ("pytorch_model.bin", "training_args.bin", "optimizer.pt", "video_processor.pkl"):
        (checkpoint / name).write_bytes(pickle.dumps(Trap(trace)))
    code = f"open({str(trace)!r}, 'w').write({TRACE!r})\nclass Own: pass\n"
    for name in ("modeling_own.py", "configuration_own.py", "processing_own.py", "tokenization_own.py"):
        (checkpoint / name).write_text(code)
    for name, classes in (
        ("config.json", {"AutoModel": "modeling_own.Own", "AutoConfig": "configuration_own.Own"}),
        ("processor_config.json", {"AutoProcessor": "processing_own.Own"}),
        ("tokenizer_config.json", {"AutoTokenizer": ["tokenization_own.Own", "tokenization_own.Own"]}),
    ):
        values = json.loads((checkpoint / name).read_text())
        (checkpoint / name).write_text(json.dumps(values | {"auto_map": classes}))
    try:
        lmms_flow.load(str(checkpoint), device="cpu")
    except CheckpointError as refused:
        assert "trust_remote_code" in str(refused)  # noqa: PT017
    assert not trace.exists()


@pytest.mark.parametrize("shard", ["../outside.safetensors", "{outside}", "a/../../outside.safetensors"])
def test_shards_outside_of_the_checkpoint_are_not_read(shard: str, checkpoint: Path, tmp_path: Path) -> None:
    weights = checkpoint / "model.safetensors"
    outside = weights.rename(tmp_path / "outside.safetensors")
    (checkpoint / "a").mkdir()
    named = shard.format(outside=outside)
    index = {"metadata": {}, "weight_map": {"lm_head.weight": named}}
    (checkpoint / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "outside of the checkpoint" in refusal(checkpoint)


def test_a_link_to_a_file_that_is_no_weights_shows_nothing_of_it(checkpoint: Path, tmp_path: Path) -> None:
    """Links themselves are followed: the hub's cache is made of them."""
    secret = tmp_path / "secret"
    secret.write_text("password-of-somebody " * 100)
    (checkpoint / "model.safetensors").unlink()
    (checkpoint / "model.safetensors").symlink_to(secret)
    assert "password-of-somebody" not in refusal(checkpoint)


# Flows and tasks


@pytest.mark.parametrize(
    "content",
    [
        "!!python/object/apply:os.system ['echo > {trace}']",
        "cut: !!python/object/new:os.system ['echo > {trace}']",
        "name: !function os.system\ncut: [video:last]",
        "random: {{share: !!python/name:os.system , seed: 1}}",
        "cut: ['$(touch {trace})', 'video:last; touch {trace}', '`touch {trace}`']",
    ],
)
def test_nothing_in_a_flow_file_runs(content: str, tmp_path: Path, trace: Path) -> None:
    file = tmp_path / "flow.yaml"
    file.write_text(content.format(trace=trace))
    with pytest.raises(FlowError) as caught:
        Flow.load(file)
    assert not trace.exists()
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "task", ["../../outside", "/etc/cron.d/x", "a/../../b", "..", "x\0y", "con\n\x1b[31m"]
)
def test_records_of_a_task_of_any_name_stay_in_their_folder(task: str, tmp_path: Path) -> None:
    folder = tmp_path / "a" / "records"
    with Journal(folder) as journal:
        journal.write("../../key", SampleRecord(id="../x", task=task, doc_id=0, status="ok", answer="A"))
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) == 1
    assert written[0].parent == folder
    (found,) = read_journal(folder)
    assert found.task == task


@pytest.mark.parametrize(
    "arrays", ["../../x.safetensors", "/etc/passwd", "arrays/../../x.safetensors", "arrays/t/x.bin"]
)
def test_arrays_outside_of_their_folder_are_not_read(arrays: str, tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="no place in the folder|outside"):
        read_arrays(tmp_path, SampleRecord(id="0", task="t", doc_id=0, status="ok", arrays=arrays))


# Videos


def clip() -> bytes:
    return next((flowbench_dir() / "clips").glob("*.mp4")).read_bytes()


PLAYLISTS = {
    "clip.m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:2.0,\n{other}\n#EXT-X-ENDLIST\n",
    "clip.mp4": "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:2.0,\n{other}\n#EXT-X-ENDLIST\n",
    "clip.ffconcat": "ffconcat version 1.0\nfile {other}\n",
    "concat.mp4": "ffconcat version 1.0\nfile beside.mp4\n",
    "stream.sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n",
    "dash.mpd": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011"><BaseURL>{other}</BaseURL></MPD>',
}


@pytest.mark.parametrize("reader", ["auto", "pyav"])
@pytest.mark.parametrize("name", PLAYLISTS)
def test_a_list_of_other_files_is_no_video(name: str, reader: str, tmp_path: Path) -> None:
    other = tmp_path / "elsewhere" / "secret.mp4"
    other.parent.mkdir()
    other.write_bytes(clip())
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "beside.mp4").write_bytes(clip())
    file = tmp_path / "videos" / name
    file.write_text(PLAYLISTS[name].format(other=other))
    with pytest.raises(SampleError, match="list of other files|is not a video"):
        read_frames(file, 4, reader=reader)


@pytest.mark.parametrize(
    "name",
    [
        "-i.mp4",
        "concat:a|b.mp4",
        "file:x.mp4",
        "$(touch x).mp4",
        "a\nb.mp4",
        "\x1b[31m.mp4",
        "%d.mp4",
        "x?y#z.mp4",
    ],
)
def test_a_videos_name_is_a_name_and_nothing_else(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(name).write_bytes(clip())
    assert read_frames(name, 2).pixels.shape[0] == 2
    with pytest.raises(SampleError) as caught:
        read_frames("missing " + name, 2)
    assert str(caught.value).isprintable()
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize(
    "name", ["http://127.0.0.1:1/x.mp4", "concat:/etc/passwd", "data:video/mp4;base64,AAAA", "\0"]
)
def test_addresses_are_no_files(name: str) -> None:
    with pytest.raises(SampleError, match="missing|can't be opened"):
        read_frames(name, 2)


# What models answer, and results


HOSTILE = "<img src=x onerror=alert(1)></td><script>alert(2)</script>\x1b[31m\x1b]0;title\x07 [bold red]x[/] \\input{x}"


def test_answers_are_shown_as_text_everywhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_log(tmp_path / "a", "none", [True, True, False], answer=HOSTILE)
    write_log(tmp_path / "b", "video:last", [False, True, True], answer=HOSTILE)
    outputs = [tmp_path / f"report.{ending}" for ending in ("html", "md", "tex", "csv")]
    compare([tmp_path / "a", tmp_path / "b"], outputs=outputs, flips=True)
    page = outputs[0].read_text()
    assert "onerror=alert(1)>" not in page.replace("&gt;", "")
    assert "<script>alert" not in page
    assert "&lt;img src=x" in page
    for file in outputs[:3]:
        assert "\x1b" not in file.read_text()
    assert "\x1b]0" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "content", [b"[" * 200_000, b'{"a":' * 100_000, b"9" * 5000, b'{"doc_id": 1e999}', b"\xff"]
)
def test_results_that_no_reader_can_hold_are_refused_in_one_line(content: bytes, tmp_path: Path) -> None:
    file = write_log(tmp_path, "none", [True, False])
    file.write_bytes(file.read_bytes() + content + b"\n")
    with pytest.raises(UserError) as caught:
        compare([tmp_path])
    assert str(caught.value).isprintable()


def test_huge_numbers_in_results_are_refused_or_shown(tmp_path: Path) -> None:
    for field, value in (("edges_kept", 10**400), ("flops", -(10**300)), ("milliseconds", 10**400)):
        line = {"doc_id": 0, "accuracy": 1.0, "record": record(0, True, "none") | {field: value}}
        (tmp_path / "2026_samples_t.jsonl").write_text(json.dumps(line) + "\n")
        with pytest.raises(UserError, match=f"the record's {field} is"):
            compare([tmp_path])
