"""Random flows with injected faults, again and again: python -m scripts.faults --minutes 30

In one process the bundled model answers under random flows; in every third answer something breaks inside a layer:
memory runs out, somebody presses Ctrl-C, an error is raised. Then the flow's block must have left no hook, and the next
answer, under that flow, must equal the reference's. Between them the disk is full while the journal is written, a
journal's last line is torn, and a second run writes into the same folder: no sample may be lost or be there twice.
Memory must stay flat.

Each round is a line of out/faults.jsonl; the same command goes on behind the last one. What kills whole runs (SIGTERM,
SIGKILL, ranks) is in `python -m tests.support.soak`.
"""

from __future__ import annotations

import argparse
import ctypes
import errno
import gc
import json
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from random import Random
from typing import Any

import psutil
import torch

import lmms_flow
from lmms_flow.assets import flowbench_dir
from lmms_flow.engine import intervene
from lmms_flow.errors import FlowError, RunError
from lmms_flow.flow import Flow
from lmms_flow.records.journal import Journal, read_journal
from lmms_flow.records.record import SampleRecord

ROOT = Path(__file__).resolve().parents[1]
MADE_UP = 30  # tokens; those of a question are six times as many
TOLERANCE = 1e-5  # of the largest logit
LOOK = 50  # rounds between two looks at the memory
GROWTH = 60  # MiB between the least and the most that the process holds: a few caches fill up
SOURCES = ("system", "video", "frame.0", "frame.last", "gap", "question", "stem")
TARGETS = ("question", "true_option", "tail", "last", "text", "video")
LAYERS = ("", "@1-6", "@7-", "@first_half", "@2-3/9-11")


class BrokenError(Exception):
    """What is raised inside a layer."""


def flow_text(rng: Random) -> str:
    """A flow for the bundled model: rules, a pathway, or a control."""
    kind = rng.random()
    if kind < 0.15:
        return rng.choice(
            ("effective-flow-tiny", "effective-flow-tiny-closed", "mirrored:effective-flow-tiny", "sham")
        )
    if kind < 0.25:
        return f"random:{rng.choice((0.1, 0.3, 0.5))}:seed{rng.randrange(100)}"
    rules = [
        f"{rng.choice(SOURCES)}:{rng.choice(TARGETS)}{rng.choice(LAYERS)}" for _ in range(rng.randint(1, 3))
    ]
    return "+".join([*rules, *(["cross_frame" + rng.choice(LAYERS)] if rng.random() < 0.4 else [])])


FAULTS: dict[str, Callable[[], BaseException]] = {
    "out of memory": lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    "interrupt": KeyboardInterrupt,
    "error": lambda: BrokenError("a layer broke"),
}


@contextmanager
def breaking(layer: torch.nn.Module, fault: str) -> Iterator[None]:
    """Inside the block the layer's attention raises, but for the made-up prompts by which a model is checked."""
    attention: Any = layer.self_attn
    whole = attention.forward

    def broken(*args: Any, **kwargs: Any) -> Any:
        hidden = args[0] if args else kwargs["hidden_states"]
        if hidden.shape[-2] <= MADE_UP:
            return whole(*args, **kwargs)
        raise FAULTS[fault]()

    attention.forward = broken
    try:
        yield
    finally:
        attention.forward = whole


def hooks_of(model: torch.nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


class Subject:
    """The bundled model and some questions about its clips."""

    def __init__(self) -> None:
        self.loaded = lmms_flow.load("flow-tiny", device="cpu")
        rows = [
            json.loads(line)
            for line in (flowbench_dir() / "moving_direction.jsonl").read_text().splitlines()[:6]
        ]
        self.prompts = [
            self.loaded.prompt(
                flowbench_dir() / row["video"],
                row["question"],
                row["candidates"],
                answer=row["candidates"].index(row["answer"]),
            )
            for row in rows
        ]
        with torch.no_grad():  # at the first pass transformers puts hooks of its own on the vision tower
            self.loaded.model(**self.prompts[0].inputs, logits_to_keep=1)
        self.layers = list(self.loaded.model.get_decoder().layers)

    def logits(self, prompt: Any, flow: Flow, engine: str) -> torch.Tensor:
        with intervene(self.loaded, flow, prompt.layout, engine=engine), torch.no_grad():
            found: torch.Tensor = self.loaded.model(**prompt.inputs, logits_to_keep=1).logits[0, -1]
        return found


def round_of(subject: Subject, rng: Random, folder: Path) -> dict[str, Any]:
    """One flow on one prompt. Returns what was done, and `wrong` where something was."""
    prompt, text = rng.choice(subject.prompts), flow_text(rng)
    line: dict[str, Any] = {"flow": text, "fault": "", "wrong": ""}
    try:
        flow = Flow.load(text)
        flow.bind(len(subject.layers)).resolve(prompt.layout)
    except FlowError as error:
        return line | {"refused": str(error)}
    before = hooks_of(subject.loaded.model)
    if rng.random() < 0.34:
        line["fault"] = rng.choice(sorted(FAULTS))
        engine = rng.choice(("sparse", "dense"))
        with breaking(rng.choice(subject.layers), line["fault"]):
            try:
                subject.logits(prompt, flow, engine)
            except (torch.OutOfMemoryError, KeyboardInterrupt, BrokenError) as error:
                line["came_out"] = type(error).__name__
            else:
                line["came_out"] = "nothing"  # the layer had no row left to compute
    if hooks_of(subject.loaded.model) != before:
        return line | {"wrong": f"{hooks_of(subject.loaded.model) - before} hooks are left"}
    dense, sparse = (subject.logits(prompt, flow, engine) for engine in ("dense", "sparse"))
    line["off"] = float((dense - sparse).abs().max() / dense.abs().max())
    if not line["off"] < TOLERANCE or not torch.isfinite(sparse).all():
        line["wrong"] = f"the engines differ by {line['off']:.1e}"
    return line | {"journal": journal_round(rng, folder)}


def journal_round(rng: Random, folder: Path) -> str:
    """Writes some answers while the disk fills up, a line is torn, or another run writes. Raises where one is lost."""
    fault = rng.choice(("none", "disk full", "torn line", "two runs"))
    wanted = [
        SampleRecord(id=str(n), task=f"t{n % 2}", doc_id=n, status="ok", answer="x" * rng.randrange(300))
        for n in range(6)
    ]
    with Journal(folder) as journal, Journal(folder) as other:
        for number, record in enumerate(wanted):
            if fault == "disk full" and number == 3:
                with full_disk():
                    try:
                        journal.write(str(number), record)
                    except RunError:
                        continue
            (other if fault == "two runs" and number % 2 else journal).write(str(number), record)
    if fault == "torn line":
        file = sorted(folder.glob("*.jsonl"))[0]
        file.write_bytes(file.read_bytes()[: -rng.randint(1, 40)])
    with Journal(folder) as again:  # the run that goes on
        for number, record in enumerate(wanted):
            if again.find(str(number)) is None:
                again.write(str(number), record)
    lines = Counter(record.doc_id for record in read_journal(folder) if record.status == "ok")
    if lines != Counter(range(6)):
        raise AssertionError(f"{fault}: the journal in {folder} holds {dict(lines)}")
    for file in folder.glob("*.jsonl"):
        file.unlink()
    return fault


@contextmanager
def full_disk() -> Iterator[None]:
    """Inside the block half of what is written arrives."""
    write = os.write

    def half(descriptor: int, data: bytes) -> int:
        if len(data) > 20:
            write(descriptor, data[: len(data) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    os.write = half  # type: ignore[assignment]
    try:
        yield
    finally:
        os.write = write


def held_by(process: psutil.Process) -> int:
    """MiB that the process holds: what its allocator keeps free is handed back first, where that can be asked for."""
    gc.collect()
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    return int(process.memory_info().rss) // 2**20


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m scripts.faults", description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--results", type=Path, default=ROOT / "out/faults.jsonl")
    args = parser.parse_args()
    args.results.parent.mkdir(parents=True, exist_ok=True)
    args.results.touch()
    number = len(args.results.read_text().splitlines())
    subject, process = Subject(), psutil.Process()
    end = time.monotonic() + args.minutes * 60
    done: Counter[str] = Counter()
    wrong, held = [], []
    with tempfile.TemporaryDirectory() as name, args.results.open("a") as results:
        while time.monotonic() < end:
            line = round_of(subject, Random(f"{args.seed}:{number}"), Path(name))
            results.write(json.dumps({"round": number, **line}) + "\n")
            results.flush()
            done.update(
                [line["fault"] or "no fault in a layer", f"journal: {line.get('journal', 'not reached')}"]
            )
            if "refused" in line:
                done["refused"] += 1
            if line["wrong"]:
                wrong.append(f"round {number}, {line['flow']}: {line['wrong']}")
            number += 1
            if number % LOOK == 0:
                held.append(held_by(process))
    for told in wrong:
        print(told)
    print(f"{done.total() // 2} rounds: {', '.join(f'{times} {what}' for what, times in done.most_common())}")
    tenths = [held[len(held) * part // 10] for part in range(10)] if held else []
    print(f"MiB held at each tenth of the way: {tenths}, at most {max(held, default=0)}; {len(wrong)} wrong")
    return int(bool(wrong) or max(held, default=0) > min(held, default=0) + GROWTH)


if __name__ == "__main__":
    sys.exit(main())
