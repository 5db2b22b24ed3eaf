"""`python -m scripts.videos.flowbench`: the bundled benchmark with its clips in other containers, scored by flow-tiny.

The accuracy must be that of the MP4s, or samples must be errors; another number would come from other frames.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import av

from lmms_flow import assets
from lmms_flow.records.record import SampleRecord
from lmms_flow.tasks.flowbench.rows import FAMILIES
from scripts.videos.coded import copy, image
from scripts.videos.pages import put

SCRIPT = "scripts/videos/flowbench.py"
LEAD_IN = 16  # frames before a cut


def recoded(source: Path, target: Path, codec: str, pix_fmt: str, options: dict[str, str]) -> Path:
    """The same frames by another codec."""
    with av.open(str(source)) as read, av.open(str(target), "w") as write:
        stream = read.streams.video[0]
        out = write.add_stream(codec, rate=stream.average_rate, options=options)
        assert isinstance(out, av.VideoStream)
        out.width, out.height, out.pix_fmt = stream.width, stream.height, pix_fmt
        for frame in read.decode(stream):
            frame.pict_type = 0  # the encoder decides
            write.mux(out.encode(frame.reformat(format=pix_fmt)))
        write.mux(out.encode(None))
    return target


def cut(source: Path, target: Path) -> Path:
    """The clip behind other frames of the same group of pictures, cut off there with its packets copied."""
    whole = target.with_name(f"whole-{target.name}")
    with av.open(str(source)) as read, av.open(str(whole), "w") as write:
        stream = read.streams.video[0]
        rate = stream.average_rate
        assert rate is not None
        out = write.add_stream("libx264", rate=rate, options={"crf": "0", "g": "999", "sc_threshold": "0"})
        out.width, out.height, out.pix_fmt = stream.width, stream.height, "yuv420p"
        others = [
            av.VideoFrame.from_ndarray(image(i, stream.height, stream.width), format="rgb24")
            for i in range(LEAD_IN)
        ]
        for place, frame in enumerate([*others, *read.decode(stream)]):
            frame.pts, frame.time_base, frame.pict_type = place, 1 / rate, 0
            write.mux(out.encode(frame))
        write.mux(out.encode(None))
        start = float(LEAD_IN / rate)
    made = copy(whole, target, shift=-start)
    whole.unlink()
    return made


CONTAINERS: dict[str, tuple[str, Callable[[Path, Path], Path]]] = {
    "MPEG-TS": ("ts", copy),
    "AVI": ("avi", copy),
    "Matroska": ("mkv", copy),
    "WebM": ("webm", lambda a, b: recoded(a, b, "libvpx-vp9", "yuv420p", {"lossless": "1", "cpu-used": "8"})),
    "GIF": ("gif", lambda a, b: recoded(a, b, "gif", "bgr8", {})),
    "cut MP4": ("mp4", cut),
}


def convert(
    folder: Path, container: str, families: tuple[str, ...] = FAMILIES, limit: int | None = None
) -> Path:
    """Writes the first questions of each family with their clips, as `assets.flowbench_dir()` has them."""
    ending, make = CONTAINERS[container]
    (folder / "clips").mkdir(parents=True)
    for family in families:
        rows = [
            json.loads(line) for line in (assets.flowbench_dir() / f"{family}.jsonl").read_text().splitlines()
        ]
        for row in rows[:limit]:
            source = assets.flowbench_dir() / row["video"]
            row["video"] = f"clips/{source.stem}.{ending}"
            if not (folder / row["video"]).exists():
                make(source, folder / row["video"])
        (folder / f"{family}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:limit]))
    return folder


@dataclass(frozen=True)
class Scored:
    """One sample; what failed is not right."""

    record: SampleRecord
    is_right: bool

    @property
    def is_answered(self) -> bool:
        return self.record.status == "ok"


def score(
    folder: Path | None, families: tuple[str, ...] = FAMILIES, limit: int | None = None
) -> list[Scored]:
    """Every sample with its record, by task and document."""
    from lmms_eval.evaluator import simple_evaluate
    from lmms_eval.tasks import TaskManager

    from lmms_flow.model_wrappers.llava_vid import LlavaVidFlow

    where = folder or assets.flowbench_dir()
    with patch.object(assets, "flowbench_dir", lambda: where):
        out = simple_evaluate(
            model=LlavaVidFlow(pretrained="flow-tiny", records="none", on_error="record"),
            tasks=[f"flowbench_{family}" for family in families],
            limit=limit,
            task_manager=TaskManager(include_defaults=False, model_name="llava_vid_flow"),
            batch_size=1,
        )
    found = []
    for samples in out["samples"].values():
        for sample in samples:
            record = SampleRecord.from_dict(sample["record"], f"{where}, a sample")
            found.append(Scored(record, record.status == "ok" and record.answer == sample["target"]))
    return sorted(found, key=lambda scored: (scored.record.task, scored.record.doc_id))


def accuracy(samples: list[Scored]) -> float:
    """Of those that were answered."""
    answered = [one for one in samples if one.is_answered]
    return sum(one.is_right for one in answered) / max(1, len(answered))


def row(name: str, found: list[Scored], plain: list[Scored]) -> str:
    """A line of the table."""
    errors = sum(not one.is_answered for one in found)
    same = sum(one.record.answer == other.record.answer for one, other in zip(plain, found, strict=True))
    readers = ", ".join(sorted({one.record.reader.split()[0] for one in found if one.is_answered}))
    return f"| {name} | {accuracy(found):.4f} | {errors} | {same} of {len(found)} | {readers} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--limit", type=int, help="questions of each family; else all")
    parser.add_argument("--no-docs", action="store_true", help="print the table alone")
    args = parser.parse_args()
    plain = score(None, limit=args.limit)
    rows = [row("MP4", plain, plain)]
    print(rows[0], flush=True)
    wrong = []
    for container in CONTAINERS:
        with tempfile.TemporaryDirectory() as folder:
            found = score(convert(Path(folder) / "bench", container, limit=args.limit), limit=args.limit)
        rows.append(row(container, found, plain))
        print(rows[-1], flush=True)
        if all(one.is_answered for one in found) and accuracy(found) != accuracy(plain):
            wrong.append(container)
    head = ["| container | accuracy | errors | the MP4s' answer | read by |", "|---|---|---|---|---|"]
    if not args.no_docs:
        put("\n".join([*head, *rows]), SCRIPT)
    if wrong:
        raise SystemExit(f"another accuracy than that of the MP4s: {', '.join(wrong)}")


if __name__ == "__main__":
    main()
