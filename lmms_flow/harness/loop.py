"""The request loop: from the host's requests to its answers, by way of the journal.

It knows nothing of models: one function tells a sample's key, another answers a batch.
"""

from __future__ import annotations

import sys
import time
import traceback
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from loguru import logger

from lmms_flow.errors import (
    SAMPLE_FAILURES,
    MissingVideoError,
    RunError,
    SampleError,
    SkippedSampleError,
    one_line,
)
from lmms_flow.harness import host
from lmms_flow.harness.sample import Outcome, Sample, describe, id_of, takes_records, unpack
from lmms_flow.harness.steps import Batch, Failed, HostAnswer, Step, by_question, same_batch
from lmms_flow.harness.telling import progress
from lmms_flow.records.arrays import Arrays
from lmms_flow.records.fields import RunFields
from lmms_flow.records.journal import Journal
from lmms_flow.records.record import SampleRecord

BATCHES_AHEAD = 3  # looked at while another is answered: enough for reading threads, little to hold
TOLD = 3  # tasks and reasons of those that failed or were skipped

# Failed samples of this process by task, since a stock task scores them as wrong answers and says nothing.
failures: Counter[str] = Counter()
_ends_at_failure = True  # what the last loop was told of on_error
_failed: set[tuple[str, int | None]] = set()  # tasks and documents of the last loop


def fail(task: str, doc_id: int | None, reason: str) -> None:
    """A sample that failed after it was asked, such as one that can't be scored. Raises RunError under `raise`.

    One that had failed already, so that there is nothing to score, is not counted again.
    """
    if (task, doc_id) in _failed:
        return
    failures[task] += 1
    if _ends_at_failure:
        raise RunError(f"task {task}: {reason} (on_error=record goes on without it)")
    logger.warning(f"task {task}: {reason}")


@dataclass
class RequestLoop:
    """Answers the requests of one run, question by question: the arms of one question are answered together.

    Args:
        key: the key of a sample in the journal (:func:`lmms_flow.records.key.sample_key`). It is asked
            before the video is decoded.
        answer: one outcome for each sample of a batch, in order. A batch shares its base task and gen_kwargs, and
            the arms of a question follow one another.
        journal: None keeps nothing.
        batch_size: of questions.
        on_error: ``raise`` ends the run at the first failed sample, ``record`` goes on without its answer.
        fields: what every record of a request says, failed ones included, by its task and metadata, and by the
            sample itself where the task could make one.
        ahead: told of the samples that will soon be asked for, so that their videos can be read meanwhile.

    Either of the first two may raise one of `SAMPLE_FAILURES` for a sample that can't be answered.
    """

    key: Callable[[Sample], str]
    answer: Callable[[list[Sample]], Sequence[Outcome]]
    journal: Journal | None = None
    batch_size: int = 1
    on_error: Literal["raise", "record"] = "raise"
    rank: int = 0
    fields: Callable[[str, Mapping[str, Any], Sample | None], RunFields] = lambda *_: RunFields()
    ahead: Callable[[list[Sample]], None] = lambda samples: None
    served: int = field(default=0, init=False)
    missing_clips: int = field(default=0, init=False)  # samples that were skipped for it
    # status -> (task, reason) -> how many
    _ended: dict[str, Counter[tuple[str, str]]] = field(default_factory=dict, init=False)
    _total: int = field(default=0, init=False)
    _stale: Counter[str] = field(default_factory=Counter, init=False)

    def __post_init__(self) -> None:
        if self.on_error not in ("raise", "record"):
            raise ValueError(f"on_error is raise or record, not {self.on_error!r}")
        if self.batch_size < 1:
            raise ValueError(f"batch_size is at least 1, not {self.batch_size}")
        self._ended = {status: Counter() for status in ("error", "skipped")}

    def run(self, requests: Sequence[Any], docs: Mapping[str, Any]) -> list[HostAnswer]:
        """The answers in the order of ``requests``: text, or text and record for our own tasks.

        Raises:
            RunError: a sample failed (under ``raise``), or something failed that is no single sample's fault.
        """
        global _ends_at_failure
        _ends_at_failure = self.on_error == "raise"
        _failed.clear()
        self._total = sum(not host.is_padding(request) for request in requests)
        answers: list[HostAnswer] = [""] * len(requests)
        bar = progress(len(requests), shown=self.rank == 0)
        try:
            for index, answer in self._settled(requests, docs):
                answers[index] = answer
                bar.update()
        except Exception as error:  # the host would swallow it
            raise self._crash("the request loop", error) from error
        finally:
            bar.close()
            self._summarise(len(requests))
        return answers

    def kept(self) -> str:
        """What remains of a run that is stopped, in a line."""
        if self.journal is None:
            return "no answer is kept (records=none)"
        return (
            f"{self.served + self.journal.written:,} answers are kept in {self.journal.folder}; the same command "
            "goes on from there"
        )

    def ended(self) -> str:
        """How many answers were taken from the records and how many were given, in a line."""
        failed = {status: counts.total() for status, counts in self._ended.items()}
        given = self._total - self.served - sum(failed.values())
        lost = "".join(
            f", {count:,} {name}"
            for name, count in (("failed", failed["error"]), ("skipped", failed["skipped"]))
            if count
        )
        return f"{self._total:,} answers: {self.served:,} from the records, {given:,} new{lost}"

    def _settled(self, requests: Sequence[Any], docs: Mapping[str, Any]) -> Iterator[tuple[int, HostAnswer]]:
        """The steps one after another, some batches behind what is looked at, so that videos are read ahead."""
        waiting: deque[Step] = deque()
        batches = 0
        for step in self._steps(requests, docs):
            waiting.append(step)
            if isinstance(step, Batch):
                batches += 1
                self.ahead(step.samples)
            while waiting and (batches > BATCHES_AHEAD or not isinstance(waiting[0], Batch)):
                batches -= isinstance(waiting[0], Batch)
                yield from self._finish(waiting.popleft())
        for step in waiting:
            yield from self._finish(step)

    def _steps(self, requests: Sequence[Any], docs: Mapping[str, Any]) -> Iterator[Step]:
        batch: list[tuple[str, Sample]] = []
        questions = 0
        for repeat, indices in by_question(requests):
            pending: list[tuple[str, Sample]] = []
            for index in indices:
                step = self._look_up(index, requests[index], docs, repeat)
                if isinstance(step, Batch):
                    pending += step.keyed
                else:
                    yield step
            if not pending:
                continue
            if batch and (questions == self.batch_size or not same_batch(batch[-1][1], pending[0][1])):
                yield Batch(tuple(batch))
                batch, questions = [], 0
            batch += pending
            questions += 1
        if batch:
            yield Batch(tuple(batch))

    def _look_up(self, index: int, request: Any, docs: Mapping[str, Any], repeat: int) -> Step:
        """The sample's answer from the journal, how it failed, or a batch of it alone."""
        metadata = request.metadata or {}
        if host.is_padding(request):
            return index, ""  # only evens out the ranks; nobody reads it
        _, _, _, doc_id, task, split = host.arguments_of(request)
        sample = None
        try:
            sample = unpack(request, index, docs, repeat)
            key = self.key(sample) + (f"-{repeat}" if repeat else "")
        except SAMPLE_FAILURES as error:
            failure = _as_sample_error(error, metadata)
            self.missing_clips += failure.is_skip and isinstance(error, MissingVideoError)
            failed = Outcome.failed(failure)
            fields = self.fields(task, metadata, sample)
            own = id_of(_document(docs, task, split, doc_id), doc_id)
            record = failed.record(task, doc_id, own, fields)
            return Failed(index, record, takes_records(metadata))
        except Exception as error:
            raise self._crash(f"task {task}, document {doc_id}", error) from error
        found = None if self.journal is None else self.journal.find(key)
        if found is not None:
            self.served += 1
            labels = self.fields(task, metadata, sample)  # the same meaning may be written otherwise by now
            return index, _host_answer(replace(found, task=task, **labels), sample.is_ours)
        self._look_for_other_flows(sample)
        return Batch(((key, sample),))

    def _finish(self, step: Step) -> Iterator[tuple[int, HostAnswer]]:
        """The answers of a step; a batch is answered now."""
        if isinstance(step, tuple):
            yield step
        elif isinstance(step, Failed):
            self._keep("", step.record)
            self._raise_if_failed([step.record])
            yield step.index, _host_answer(step.record, step.ours)
        else:
            outcomes = self._outcomes(step.samples)
            records = [
                self._keep(key, self._record(sample, outcome), outcome.arrays)
                for (key, sample), outcome in zip(step.keyed, outcomes, strict=True)
            ]
            self._raise_if_failed(records)  # now that the others of the batch are kept
            for sample, record in zip(step.samples, records, strict=True):
                yield sample.index, _host_answer(record, sample.is_ours)

    def _outcomes(self, samples: list[Sample], again: bool = True) -> list[Outcome]:
        """One outcome a sample. What fails as a batch is tried once more, one by one."""
        start = time.perf_counter()
        try:
            outcomes = list(self.answer(samples))
        except Exception as error:
            out_of_memory = _is_out_of_memory(error)
            if not (out_of_memory or isinstance(error, SAMPLE_FAILURES)):
                raise self._crash(_name(samples), error) from error
            failure = SampleError("out of memory") if out_of_memory else _as_sample_error(error, {})
        else:
            if len(outcomes) != len(samples):
                raise RunError(f"{len(outcomes)} outcomes for {len(samples)} samples at {_name(samples)}")
            each = (time.perf_counter() - start) * 1000 / len(samples)
            return [_timed(outcome, each) for outcome in outcomes]
        # Out of the handler: its exception holds the tensors that did not fit.
        if not again or not (out_of_memory or len(samples) > 1):
            return [Outcome.failed(failure) for _ in samples]
        if out_of_memory:
            _free_memory()
            logger.warning(f"out of memory at {_name(samples)}: trying once more, one by one")
        return [outcome for sample in samples for outcome in self._outcomes([sample], again=False)]

    def _record(self, sample: Sample, outcome: Outcome) -> SampleRecord:
        fields = self.fields(sample.task, sample.metadata, sample)
        return outcome.record(sample.task, sample.doc_id, sample.id, fields)

    def _keep(self, key: str, record: SampleRecord, arrays: Arrays | None = None) -> SampleRecord:
        """Puts a record into the journal and counts it; returns it as it was written."""
        if self.journal is not None:
            record = self.journal.write(key, record, arrays)
        if record.status != "ok":
            self._ended[record.status][record.task, record.reason] += 1
        if record.status == "error":
            failures[record.task] += 1
            _failed.add((record.task, record.doc_id))
        return record

    def _raise_if_failed(self, records: Sequence[SampleRecord]) -> None:
        for record in records:
            if record.status == "error":
                line = f"task {record.task}, document {record.doc_id}: {record.reason}"
                if self.on_error == "raise":
                    raise RunError(f"{line} (on_error=record goes on without it)")
                logger.warning(line)

    def _crash(self, where: str, error: Exception) -> RunError:
        traceback.print_exception(error)
        return RunError(f"{where}: {describe(error)}")

    def _look_for_other_flows(self, sample: Sample) -> None:
        """Says once that answers in the journal belong to a flow of the same text and another meaning."""
        if self.journal is None:
            return
        own = self._record(sample, Outcome.ok(""))
        for digest, text in self.journal.other_flows(sample.task, sample.doc_id, own.flow_digest).items():
            if text == own.flow and not self._stale[digest]:
                logger.warning(
                    f"the flow {own.flow!r} changed since it was journaled (it was {digest[:12]}, "
                    f"now it is {own.flow_digest[:12]}): those answers are not used"
                )
            self._stale[digest] += 1

    def _summarise(self, total: int) -> None:
        if self.journal is not None:
            logger.info(
                f"{self.served} of {total} answers are from the journal {self.journal.folder}, "
                f"{self.journal.written} were added to it"
            )
        for digest, count in self._stale.items():
            logger.info(f"the journal also holds {count} of these samples under another flow, {digest[:12]}")
        for status, log, verb in (
            ("error", logger.error, "failed"),
            ("skipped", logger.warning, "were skipped"),
        ):
            counts = self._ended[status]
            if counts:
                log(f"{counts.total()} of {total} samples {verb} {_tasks_and_reasons(counts)}")


def _tasks_and_reasons(counts: Counter[tuple[str, str]]) -> str:
    """Where and why, the most frequent first: `TOLD` tasks and reasons by name, and how many more there are."""
    tasks, reasons = Counter[str](), Counter[str]()
    for (task, reason), count in counts.items():
        tasks[task] += count
        reasons[reason] += count
    where = ", ".join(f"{task}: {count}" for task, count in sorted(tasks.items()))
    told = [f"{count} x {one_line(reason, limit=200)}" for reason, count in reasons.most_common(TOLD)]
    more = [f"{len(reasons) - TOLD} more"] if len(reasons) > TOLD else []
    return f"({where if len(tasks) <= TOLD else f'in {len(tasks)} tasks'}): {'; '.join([*told, *more])}"


def _document(docs: Mapping[str, Any], task: str, split: str, doc_id: int) -> Any:
    try:
        return docs[task][split][doc_id]
    except (LookupError, TypeError):  # then the sample's reason says so
        return None


def _host_answer(record: SampleRecord, ours: bool) -> HostAnswer:
    answer = record.answer if record.status == "ok" else ""
    return [answer, record.to_json()] if ours else answer


def _timed(outcome: Outcome, milliseconds: float) -> Outcome:
    return replace(outcome, details={"milliseconds": round(milliseconds, 3), **outcome.details})


def _name(samples: Sequence[Sample]) -> str:
    ids = ", ".join(str(sample.doc_id) for sample in samples)
    return f"task {samples[0].task}, document{'s' if len(samples) > 1 else ''} {ids}"


def _as_sample_error(error: Exception, metadata: Mapping[str, Any]) -> SampleError:
    """A clip that its data set does not hand out is no failure, where the task says that there are such."""
    if isinstance(error, MissingVideoError) and metadata.get("missing_clips") == "skip":
        return SkippedSampleError(error.reason, path=error.path)
    return error if isinstance(error, SampleError) else SampleError(str(error))


def _is_out_of_memory(error: Exception) -> bool:
    torch = sys.modules.get("torch")  # an error of torch's can only come from a loaded torch
    return isinstance(error, MemoryError if torch is None else (MemoryError, torch.cuda.OutOfMemoryError))


def _free_memory() -> None:
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
