"""What the request loop does with the host's requests, in steps: question by question, arms together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from lmms_flow.harness import host
from lmms_flow.harness.sample import QuestionId, Sample, question_of
from lmms_flow.records.record import SampleRecord

HostAnswer = str | list[str]


@dataclass(frozen=True)
class Failed:
    """A sample that ended before it could be asked for."""

    index: int
    record: SampleRecord
    ours: bool


@dataclass(frozen=True)
class Batch:
    """Samples that are answered together, each with its key."""

    keyed: tuple[tuple[str, Sample], ...]

    @property
    def samples(self) -> list[Sample]:
        """The samples without their keys."""
        return [sample for _, sample in self.keyed]


Step = tuple[int, HostAnswer] | Failed | Batch


def by_question(requests: Sequence[Any]) -> Iterator[tuple[int, list[int]]]:
    """The places of the requests, arms of one question together, with how often each was asked before."""
    seen: Counter[tuple[str, str, int]] = Counter()
    questions: dict[tuple[QuestionId, int], list[int]] = {}
    for index, request in enumerate(requests):
        _, _, _, doc_id, task, split = host.arguments_of(request)
        repeat = 0
        if not host.is_padding(request):
            repeat = seen[task, split, doc_id]
            seen[task, split, doc_id] += 1
        question = question_of(task, split, doc_id, request.metadata)
        questions.setdefault((question, repeat), []).append(index)
    for (_, repeat), indices in questions.items():
        yield repeat, indices


def same_batch(one: Sample, other: Sample) -> bool:
    """Whether two samples may be answered in one call: the same task and split, the same generation settings."""
    return one.question[:2] == other.question[:2] and one.gen_kwargs == other.gen_kwargs
