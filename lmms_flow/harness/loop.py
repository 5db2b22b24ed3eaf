"""The request loop: from the host's requests to its answers, by way of the journal.

It knows nothing of models: one function tells a sample's key, another answers a batch.
"""

from __future__ import annotations

import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from loguru import logger
from tqdm import tqdm

from lmms_flow.flow import FlowError
from lmms_flow.harness.errors import RunError, SampleError
from lmms_flow.harness.journal import Journal
from lmms_flow.harness.record import SampleRecord
from lmms_flow.harness.sample import Outcome, Sample, describe, unpack

HostAnswer = str | list[str]

# Failed samples of this process by task, since a stock task scores them as wrong answers and says nothing.
failures: Counter[str] = Counter()


@dataclass
class RequestLoop:
    """Answers the requests of one run.

    Args:
        key: the key of a sample in the journal (:func:`lmms_flow.harness.sample_key.sample_key`). It is asked
            before the video is decoded.
        answer: one outcome for each sample of a batch, in order. A batch shares its task and gen_kwargs.
        journal: None keeps nothing.
        on_error: ``raise`` ends the run at the first failed sample, ``record`` goes on without its answer.
        common: fields of every record of this run, failed ones included: flow, flow_digest, engine and such.

    Either function may raise :class:`SampleError` or :class:`FlowError` for a sample that can't be answered.
    """

    key: Callable[[Sample], str]
    answer: Callable[[list[Sample]], Sequence[Outcome]]
    journal: Journal | None = None
    batch_size: int = 1
    on_error: Literal["raise", "record"] = "raise"
    rank: int = 0
    common: Mapping[str, Any] = field(default_factory=dict)
    served: int = field(default=0, init=False)
    _failed: Counter[str] = field(default_factory=Counter, init=False)
    _stale: Counter[str] = field(default_factory=Counter, init=False)

    def __post_init__(self) -> None:
        if self.on_error not in ("raise", "record"):
            raise ValueError(f"on_error is raise or record, not {self.on_error!r}")
        if self.batch_size < 1:
            raise ValueError(f"batch_size is at least 1, not {self.batch_size}")

    def run(self, requests: Sequence[Any], docs: Mapping[str, Any]) -> list[HostAnswer]:
        """The answers in the order of ``requests``: text, or text and record for our own tasks.

        Raises:
            RunError: a sample failed (under ``raise``), or something failed that is no single sample's fault.
        """
        answers: list[HostAnswer] = [""] * len(requests)
        bar = tqdm(total=len(requests), desc="lmms_flow", unit="sample", disable=self.rank != 0)
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

    def _settled(self, requests: Sequence[Any], docs: Mapping[str, Any]) -> Iterator[tuple[int, HostAnswer]]:
        batch: list[tuple[str, Sample]] = []
        seen: Counter[tuple[str, str, int]] = Counter()
        for index, request in enumerate(requests):
            if (request.metadata or {}).get("__padding_only__"):
                yield index, ""  # only evens out the ranks; nobody reads it
                continue
            _, _, _, doc_id, task, split = request.args
            repeat = seen[task, split, doc_id]
            seen[task, split, doc_id] += 1
            sample = None
            try:
                sample = unpack(request, index, docs, repeat)
                key = self.key(sample) + (f"-{repeat}" if repeat else "")
            except (SampleError, FlowError) as error:
                failed = Outcome.failed(_as_sample_error(error))
                record = failed.record(task, doc_id, sample.id if sample else str(doc_id), self.common)
                self._keep("", record)
                self._raise_if_failed([record])
                yield index, _host_answer(record, bool((request.metadata or {}).get("lmms_flow")))
                continue
            except Exception as error:
                raise self._crash(f"task {task}, document {doc_id}", error) from error
            found = None if self.journal is None else self.journal.find(key)
            if found is not None:
                self.served += 1
                yield index, _host_answer(found, sample.is_ours)
                continue
            self._look_for_other_flows(sample)
            if batch and not _same_batch(batch[-1][1], sample):
                yield from self._flush(batch)
            batch.append((key, sample))
            if len(batch) == self.batch_size:
                yield from self._flush(batch)
        yield from self._flush(batch)

    def _flush(self, batch: list[tuple[str, Sample]]) -> Iterator[tuple[int, HostAnswer]]:
        """Answers the batch and empties it."""
        if not batch:
            return
        keys, samples = zip(*batch, strict=True)
        batch.clear()
        records = [
            outcome.record(sample.task, sample.doc_id, sample.id, self.common)
            for sample, outcome in zip(samples, self._outcomes(list(samples)), strict=True)
        ]
        for key, record in zip(keys, records, strict=True):
            self._keep(key, record)
        self._raise_if_failed(records)  # now that the others of the batch are kept
        for sample, record in zip(samples, records, strict=True):
            yield sample.index, _host_answer(record, sample.is_ours)

    def _outcomes(self, samples: list[Sample], again: bool = True) -> list[Outcome]:
        """One outcome a sample. What fails as a batch is tried once more, one by one."""
        start = time.perf_counter()
        try:
            outcomes = list(self.answer(samples))
        except Exception as error:
            out_of_memory = _is_out_of_memory(error)
            if not (out_of_memory or isinstance(error, (SampleError, FlowError))):
                raise self._crash(_name(samples), error) from error
            failure = SampleError("out of memory") if out_of_memory else _as_sample_error(error)
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

    def _keep(self, key: str, record: SampleRecord) -> None:
        if self.journal is not None:
            self.journal.write(key, record)
        if record.status == "error":
            self._failed[record.task] += 1
            failures[record.task] += 1

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
        if self.journal is None:
            return
        for digest, flow in self.journal.other_flows(sample.task, sample.doc_id).items():
            if flow == self.journal.flow and not self._stale[digest]:
                logger.warning(
                    f"the flow {flow!r} changed since it was journaled (it was {digest[:12]}, "
                    f"now it is {self.journal.flow_digest[:12]}): those answers are not used"
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
        if self._failed:
            tasks = ", ".join(f"{task}: {count}" for task, count in sorted(self._failed.items()))
            logger.error(f"{sum(self._failed.values())} of {total} samples failed ({tasks})")


def _host_answer(record: SampleRecord, ours: bool) -> HostAnswer:
    answer = record.answer if record.status == "ok" else ""
    return [answer, record.to_json()] if ours else answer


def _same_batch(one: Sample, other: Sample) -> bool:
    return one.task == other.task and one.gen_kwargs == other.gen_kwargs


def _timed(outcome: Outcome, milliseconds: float) -> Outcome:
    return replace(outcome, details={"milliseconds": round(milliseconds, 3), **outcome.details})


def _name(samples: Sequence[Sample]) -> str:
    ids = ", ".join(str(sample.doc_id) for sample in samples)
    return f"task {samples[0].task}, document{'s' if len(samples) > 1 else ''} {ids}"


def _as_sample_error(error: Exception) -> SampleError:
    return error if isinstance(error, SampleError) else SampleError(str(error))


def _is_out_of_memory(error: Exception) -> bool:
    torch = sys.modules.get("torch")  # an error of torch's can only come from a loaded torch
    return isinstance(error, MemoryError if torch is None else (MemoryError, torch.cuda.OutOfMemoryError))


def _free_memory() -> None:
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
