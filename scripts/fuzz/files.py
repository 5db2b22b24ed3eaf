"""Readers of files: records and journals, a trace's settings and arrays, results of lmms-eval, videos."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from lmms_flow.assets import flowbench_dir
from lmms_flow.flow.trace_settings import TraceSettings
from lmms_flow.inputs.bitstream import is_entry_point
from lmms_flow.inputs.video import read_frames
from lmms_flow.records.arrays import Arrays, are_whole, read_arrays, write_arrays
from lmms_flow.records.journal import JournalLine
from lmms_flow.records.record import SampleRecord
from lmms_flow.report.board import Settings, make_boards
from lmms_flow.report.board_tables import all_tables
from lmms_flow.report.runs import read_runs
from scripts.fuzz.strange import changed, flipped, written

SHAPES = {"map.probability": (2, 3)}
RECORD: dict[str, Any] = SampleRecord(
    id="1", task="t", doc_id=0, status="ok", answer="A", first_token="A", flow="video:last", flow_digest="0" * 12,
    engine="sparse", edges_kept=5, edges_total=9, frames=(0, 4), num_frames=2, options={"A": 0.5, "B": 0.25}, flops=9,
    flops_full=10, milliseconds=1.5, checkpoint="tiny", protocol="paper", notes=("a note",), num_layers=4,
    arrays="arrays/t/k.safetensors", shapes=SHAPES,
).to_dict()  # fmt: skip


def record(rng: Random, _: Path) -> None:
    """A record as a sample log has it; what is read must be written and read again as the same."""
    data = written(changed(RECORD, rng), rng)
    found = SampleRecord.from_json(data.decode("utf-8", "replace"))
    assert SampleRecord.from_json(found.to_json()).to_json() == found.to_json()


def journal_line(rng: Random, _: Path) -> None:
    """A line of the journal, after JSON has been read."""
    line = {"format": RECORD["format"], "key": "k", "time": 1.5, "record": RECORD}
    values = json.loads(json.dumps(changed(line, rng)))
    found = JournalLine.from_dict(values, "journal, line 1")
    assert JournalLine.from_dict(json.loads(found.to_bytes()), "again").to_bytes() == found.to_bytes()


def trace_settings(rng: Random, _: Path) -> None:
    """The settings in a trace's record and YAML."""
    given = {
        "kinds": ["map", "logit_lens"],
        "knockouts": ["video:question", "cross_frame"],
        "window": 3,
        "layers": "1-4",
    }
    values = json.loads(json.dumps(changed(given, rng)))
    made = (
        TraceSettings.from_mapping(values)
        if rng.random() < 0.7
        else TraceSettings.from_text(json.dumps(values))
    )
    assert TraceSettings.from_text(made.to_text()) == made


def arrays(rng: Random, folder: Path) -> None:
    """A file of arrays with bytes changed, and a record that may name another place."""
    place = RECORD["arrays"]
    write_arrays(
        folder, place, Arrays({"map.probability": np.ones((2, 3), np.float32)}, {"window": 3}), "part"
    )
    file = folder / place
    if rng.random() < 0.8:
        file.write_bytes(flipped(file.read_bytes(), rng, most=3))
    odd = ("../../x", "/etc/passwd", "arrays/../t/k.safetensors", "arrays/t/k.bin", "arrays\\t\\k", "\0", "")
    named = rng.choice(odd) if rng.random() < 0.2 else place
    mine = SampleRecord.from_dict({**RECORD, "arrays": named})
    are_whole(folder, mine)
    read_arrays(folder, mine)


def results(rng: Random, folder: Path) -> None:
    """A run's results and sample logs, read, tested and put into tables."""
    folder = folder / "run"
    folder.mkdir(exist_ok=True)
    config = {"model": "llava_vid_flow", "model_args": "pretrained=flow-tiny,flow=video:last", "limit": None}
    run = {"config": config, "configs": {"t": {"metric_list": [{"metric": "accuracy"}]}}}
    hits = [rng.randrange(2) for _ in range(3)]
    for flow in ("none", "video:last"):
        rows = [
            {
                "doc_id": i,
                "target": "A",
                "input": "q",
                "accuracy": float(hit),
                "record": {**RECORD, "flow": flow, "doc_id": i},
            }
            for i, hit in enumerate(hits)
        ]
        stock = rng.random() < 0.3
        rows = [{k: v for k, v in row.items() if not (stock and k == "record")} for row in rows]
        rows[0] = changed(rows[0], rng) if rng.random() < 0.8 else rows[0]
        lines = [written(row, rng) if rng.random() < 0.2 else json.dumps(row).encode() for row in rows]
        (folder / f"2026_samples_{'t' if flow == 'none' else 'u'}.jsonl").write_bytes(
            b"\n".join(lines) + b"\n"
        )
    whole = changed(run, rng) if rng.random() < 0.6 else run
    (folder / "2026_results.json").write_bytes(
        written(whole, rng) if rng.random() < 0.5 else json.dumps(whole).encode()
    )
    reading = read_runs([folder])
    for board in make_boards(reading.arms, Settings(0.02, 0), allow_differences=True, notes=reading.notes):
        for table in all_tables(board):
            list(table.texts())


@cache
def clips() -> tuple[bytes, ...]:
    return tuple(file.read_bytes() for file in sorted((flowbench_dir() / "clips").glob("*.mp4"))[:12])


def video_header(rng: Random, folder: Path) -> None:
    """A clip whose boxes, or other bytes, were changed; decoded by the processes that decode every video."""
    data = rng.choice(clips())
    head = data.rfind(b"moov") - 4 if rng.random() < 0.6 else 0  # sizes, times and tables
    way = rng.randrange(8)
    if way == 0:
        data = data[: rng.randrange(len(data))]
    elif way == 1:
        data = rng.randbytes(rng.randint(1, 2000))
    else:
        place = rng.randrange(max(head, 0), len(data))
        data = data[:place] + flipped(data[place : place + 60], rng, most=4) + data[place + 60 :]
    file = folder / rng.choice(
        ("clip.mp4", "clip.avi", "clip.mkv", "clip\n\x1b[31m.mp4", "-i.mp4", "concat:a|b.mp4")
    )
    file.write_bytes(data)
    start = rng.choice((None, None, 0.0, 0.5, -1.0, 1e9))
    read_frames(file, rng.choice((1, 4, 8)), start, None, reader=rng.choice(("auto", "pyav")), timeout=30)


CODECS = ("h264", "hevc", "vp8", "vp9", "av1", "mpeg4", "mpeg2video", "prores", "unknown")


def bitstream(rng: Random, _: Path) -> None:
    """Bytes of a packet and of a codec's own header."""
    kinds = (b"\x00\x00\x01", b"\x01\x64\x00\x1f\xff\xe1\x00\x10", b"\x67", b"\x0a\x0b", b"\x82\x49\x83\x42")
    packet = b"".join(rng.choice(kinds) + rng.randbytes(rng.randrange(12)) for _ in range(rng.randrange(6)))
    extradata = rng.choice((None, b"", rng.randbytes(rng.randrange(60)), b"\x01" + rng.randbytes(40)))
    assert is_entry_point(rng.choice(CODECS), packet, extradata) in (True, False)
