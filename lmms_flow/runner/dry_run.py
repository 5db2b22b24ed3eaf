"""What a run would cost, before it starts: the first question of each kind is answered, and nothing of it is kept."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from lmms_flow.engine.flops import flop_counter
from lmms_flow.errors import SAMPLE_FAILURES
from lmms_flow.flow.trace_settings import MAP, TraceSettings
from lmms_flow.harness import host
from lmms_flow.harness.sample import Sample, unpack

from .answering import Answerer

TRIES = 5  # questions that are asked before it is said that none can be answered


@dataclass(frozen=True)
class Estimate:
    """The requests of one flow and trace: how many, and what one of them costs.

    `flops` and `seconds` are those of a question that was answered: its video's reading, its vision pass, the answer
    and what a trace reads out. They are None where no question could be answered; then `reason` says why.
    """

    flow: str
    trace: TraceSettings | None
    tasks: tuple[str, ...]
    questions: int
    flops: int | None = None
    seconds: float | None = None
    reason: str = ""

    def told(self) -> str:
        """In one line."""
        asked = f"flow {self.flow}" + (f", trace {self._traced()}" if self.trace else "")
        count = f"{self.questions} questions of {', '.join(self.tasks[:3])}{', ...' if len(self.tasks) > 3 else ''}"
        if self.flops is None or self.seconds is None:
            return f"{asked}: {count}; what they cost can't be told: {self.reason}"
        return (
            f"{asked}: {count}; one takes {self.flops / 1e9:,.1f} GFLOPs and {self.seconds:.2f} s, all of them "
            f"{self.flops * self.questions / 1e12:,.2f} TFLOPs and {duration(self.seconds * self.questions)}"
        )

    def _traced(self) -> str:
        assert self.trace is not None
        cuts = f" ({len(self.trace.knockouts)} knockouts)" if MAP in self.trace.kinds else ""
        return "+".join(self.trace.kinds) + cuts


def estimates(answerer: Answerer, requests: Sequence[Any], docs: Mapping[str, Any]) -> Iterator[Estimate]:
    """What each flow and trace among the requests would cost; each is measured when it is asked for.

    Args:
        answerer: of the run.
        requests: the host's, those of this process.
        docs: the model's `task_dict`.
    """
    asking = answerer.asking
    kinds: dict[tuple[str, TraceSettings | None], list[Any]] = {}
    for request in requests:
        if not host.is_padding(request):
            metadata = request.metadata or {}
            flow = str(metadata.get("flow") or asking.loaded.flows.own.flow.text)
            trace = asking.trace(host.arguments_of(request)[4], metadata)
            kinds.setdefault((flow, trace), []).append(request)
    for (flow, trace), asked in kinds.items():
        tasks = tuple(dict.fromkeys(host.arguments_of(request)[4] for request in asked))
        flops, seconds, reason = _measured(answerer, asked, docs)
        yield Estimate(flow, trace, tasks, len(asked), flops, seconds, reason)


def _measured(
    answerer: Answerer, asked: Sequence[Any], docs: Mapping[str, Any]
) -> tuple[int | None, float | None, str]:
    """FLOPs and seconds of the first question that can be answered, else why none could."""
    reason = ""
    for index, request in enumerate(asked[:TRIES]):
        try:
            sample = unpack(request, index, docs)
            flops, reason = _flops(answerer, sample)
            if reason:
                continue
            start = time.perf_counter()
            answerer.answer([sample])
            return flops, time.perf_counter() - start, ""
        except SAMPLE_FAILURES as error:
            reason = str(error)
    return None, None, reason


def _flops(answerer: Answerer, sample: Sample) -> tuple[int, str]:
    """Counted while the question is answered for the first time, which also warms the model up."""
    with flop_counter() as counter:
        (outcome,) = answerer.answer([sample])
    return int(counter.get_total_flops()), outcome.reason if outcome.status != "ok" else ""


def memory(device: torch.device) -> str:
    """The most that was held at once, as far as the machine tells it."""
    if device.type == "cuda":
        return f"{torch.cuda.max_memory_allocated(device) / 2**30:.1f} GiB of the GPU at the peak"
    try:
        import resource
    except ImportError:  # not on Windows
        return "memory is not told on this system"
    import sys

    unit = 1 if sys.platform == "darwin" else 1024
    return f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30:.1f} GiB at the peak"


def duration(seconds: float) -> str:
    """Roughly, as a person would say it."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
