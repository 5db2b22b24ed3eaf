"""What proving the frames costs: 8 frames of a 10-second 720p clip, and of an hour, beside decord's random access.

    python -m benchmarks.video [--json FILE] [--repeats 5] [--seconds 10] [--minutes 60]

Readers take turns within one run and the least processor time of each counts, so that a busy machine changes little.
The clips are written with PyAV: a moving pattern with noise. The hour is one minute, copied sixty times. docs/videos.md
has the table; a test holds it against benchmarks/results/video.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import av
import numpy as np
from rich.console import Console
from rich.table import Table

from lmms_flow.inputs.clip import Clip
from lmms_flow.inputs.complaints import NoComplaints
from lmms_flow.inputs.reading import decode
from lmms_flow.inputs.sampling import midpoints

FPS = 30


def write(path: Path, seconds: int, size: tuple[int, int], gop: int) -> Path:
    """H.264 with two B frames; `size` is (height, width)."""
    random = np.random.default_rng(0)
    height, width = size
    noise = random.integers(0, 40, (height, 2 * width, 3), dtype=np.uint8)
    ramp = np.linspace(0, 200, width, dtype=np.uint8)[None, :, None]
    with av.open(str(path), "w") as container:
        stream = container.add_stream(
            "libx264", rate=FPS, options={"preset": "veryfast", "bf": "2", "g": str(gop)}
        )
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        for index in range(seconds * FPS):
            shift = 3 * index % width
            picture = np.roll(ramp, shift, axis=1) + noise[:, shift : shift + width]
            for packet in stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return path


def repeated(source: Path, target: Path, times: int) -> Path:
    with av.open(str(target), "w") as write_to:
        out = None
        for turn in range(times):
            with av.open(str(source)) as read:
                stream = read.streams.video[0]
                out = out or write_to.add_stream_from_template(stream)
                assert stream.time_base is not None
                length = round(stream.frames / FPS / stream.time_base)
                for packet in read.demux(stream):
                    if packet.size and packet.pts is not None and packet.dts is not None:
                        packet.pts, packet.dts = packet.pts + turn * length, packet.dts + turn * length
                        packet.stream = out
                        write_to.mux(packet)
    return target


def random_access(path: Path) -> Any:
    """As the paper's loader reads: decord, believed."""
    import decord

    reader = decord.VideoReader(str(path), ctx=decord.cpu(0), num_threads=1)
    return reader.get_batch(list(midpoints(0, len(reader) - 1, 8))).asnumpy()


def by(reader: str) -> Callable[[Path], Any]:
    return lambda path: decode(Clip(str(path), 8, reader=reader), NoComplaints())


WAYS: dict[str, Callable[[Path], Any]] = {
    "decord's random access": random_access,
    "ours, decord": by("auto"),
    "ours, PyAV": by("pyav"),
}


def seconds(path: Path, repeats: int) -> dict[str, dict[str, float]]:
    """The least processor and wall time of each way, in turn."""
    best = {name: {"processor": float("inf"), "wall": float("inf")} for name in WAYS}
    for _ in range(repeats):
        for name, read in WAYS.items():
            wall, processor = time.perf_counter(), time.process_time()
            read(path)
            best[name]["processor"] = min(best[name]["processor"], time.process_time() - processor)
            best[name]["wall"] = min(best[name]["wall"], time.perf_counter() - wall)
    return best


def clips(folder: Path, length: int, minutes: int) -> dict[str, Path]:
    """By what they are called."""
    made = {
        f"{length} s, 720p, a key frame every {gop / FPS:.2g} s": write(
            folder / f"{gop}.mp4", length, (720, 1280), gop
        )
        for gop in (15, 60, 250)
    }
    minute = write(folder / "minute.mp4", 60, (360, 640), 60)
    name = f"{minutes / 60:g} h, 360p, a key frame every 2 s"
    return {**made, name: repeated(minute, folder / "hours.mp4", minutes)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--json", type=Path, default=Path(__file__).with_name("results") / "video.json")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=10, help="of the short clips")
    parser.add_argument("--minutes", type=int, default=60, help="of the long one")
    args = parser.parse_args()
    figures = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, path in clips(Path(folder), args.seconds, args.minutes).items():
            found = seconds(path, args.repeats)
            base = found["decord's random access"]["processor"]
            figures[name] = {
                way: {kind: round(value, 3) for kind, value in times.items()}
                | {"ratio": round(times["processor"] / base, 2)}
                for way, times in found.items()
            }
    machine = {
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
        "av": av.__version__,
        "decord": version("decord"),
        "repeats": args.repeats,
    }
    args.json.write_text(json.dumps({"machine": machine, "seconds": figures}, indent=1) + "\n")
    table = Table("video", *WAYS)
    for name, ways in figures.items():
        cells = (
            f"{way['processor']:.2f} s ({way['wall']:.2f}), x{way['ratio']:.2f}" for way in ways.values()
        )
        table.add_row(name, *cells)
    Console(width=150).print(table)


if __name__ == "__main__":
    main()
