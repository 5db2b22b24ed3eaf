"""The request loop: every sample answered once, in the host's order, whatever happens on the way."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Unpack

import pytest

from lmms_flow.errors import MissingVideoError, RunError, SampleError, SkippedSampleError
from lmms_flow.flow import FlowError
from lmms_flow.harness import loop
from lmms_flow.harness.loop import RequestLoop
from lmms_flow.harness.sample import Outcome, Sample
from lmms_flow.harness.steps import HostAnswer
from lmms_flow.records.fields import RunFields
from lmms_flow.records.journal import Journal, read_journal
from lmms_flow.records.record import SampleRecord
from tests.support.requests import DOCS, GEN_KWARGS, request

ROOT = Path(__file__).resolve().parent.parent


class Model:
    """Answers with the question in capitals, and remembers what it was asked."""

    def __init__(self, digest: str = "", **faults: BaseException) -> None:
        self.batches: list[list[str]] = []
        self.digest = digest
        self.faults = faults  # document id -> what to raise

    def key(self, sample: Sample) -> str:
        return f"{sample.task}-{sample.doc_id}{self.digest}"

    def answer(self, samples: Sequence[Sample]) -> list[Outcome]:
        self.batches.append([sample.id for sample in samples])
        for sample in samples:
            if sample.id.replace("-", "_") in self.faults:
                raise self.faults[sample.id.replace("-", "_")]
        return [Outcome.ok(sample.doc["question"].upper(), frames=(1, 4)) for sample in samples]

    @property
    def asked(self) -> list[str]:
        return [name for batch in self.batches for name in batch]


def said(**values: Unpack[RunFields]) -> Callable[..., RunFields]:
    """The same fields in every record."""
    return lambda task, metadata, sample: values


def make_loop(model: Model, **arguments: Any) -> RequestLoop:
    return RequestLoop(key=model.key, answer=model.answer, **arguments)


def records_of(answers: Iterable[HostAnswer]) -> list[SampleRecord]:
    """Those beside the answers, of a task of ours."""
    return [
        SampleRecord.from_json(record)
        for answer in answers
        if isinstance(answer, list)
        for record in answer[1:]
    ]


@pytest.mark.smoke
def test_answers_come_back_in_the_order_of_the_requests() -> None:
    model = Model()
    requests = [request(i, task) for task in "yx" for i in (3, 1, 2)]
    answers = make_loop(model, batch_size=2).run(requests, DOCS)
    assert answers == ["Y 3?", "Y 1?", "Y 2?", "X 3?", "X 1?", "X 2?"]
    assert model.batches == [["y-3", "y-1"], ["y-2"], ["x-3", "x-1"], ["x-2"]], "a batch is of one task"


def test_a_batch_shares_its_generation_settings() -> None:
    model = Model()
    requests = [request(0), request(1, gen_kwargs={"max_new_tokens": 9}), request(2)]
    make_loop(model, batch_size=4).run(requests, DOCS)
    assert model.batches == [["x-0"], ["x-1"], ["x-2"]]


def test_a_sample_is_what_the_request_says() -> None:
    seen: list[Sample] = []
    RequestLoop(key=lambda s: "", answer=lambda batch: (seen.extend(batch), [Outcome.ok("A")])[1]).run(
        [request(4, metadata={"version": 1})], DOCS
    )
    (sample,) = seen
    assert (sample.task, sample.split, sample.doc_id, sample.id) == ("x", "test", 4, "x-4")
    assert sample.metadata == {"version": 1}
    assert not sample.is_ours
    assert sample.videos() == [{"type": "video", "url": "clip.mp4", "end_time": 2.0}]
    assert sample.messages[1] == {
        "role": "assistant",
        "content": [{"type": "text", "text": "Best option:("}],
    }


def test_the_hosts_settings_are_never_changed() -> None:
    def greedy(samples: list[Sample]) -> list[Outcome]:
        samples[0].gen_kwargs["until"].append("x")
        samples[0].gen_kwargs.pop("max_new_tokens")
        return [Outcome.ok("A")]

    theirs = {"max_new_tokens": 1, "until": ["\n\n"]}
    RequestLoop(key=lambda s: "", answer=greedy).run([request(0, gen_kwargs=theirs)], DOCS)
    assert theirs == GEN_KWARGS


@pytest.mark.smoke
def test_our_tasks_take_a_record_beside_the_answer(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        runs = [
            make_loop(Model(), journal=journal, fields=said(flow="video:last", engine="dense")).run(
                [request(2, ours=True)], DOCS
            )
            for _ in range(2)
        ]
    assert runs[0] == runs[1], "an answer from the journal is the same answer"
    (record,) = records_of(runs[0])
    assert runs[0][0][0] == record.answer == "X 2?"
    assert (record.id, record.doc_id, record.status) == ("x-2", 2, "ok")
    assert (record.flow, record.engine, record.frames) == ("video:last", "dense", (1, 4))
    assert record.milliseconds is not None


def test_padding_requests_are_answered_and_never_run() -> None:
    model = Model()
    padding = request(1, metadata={"__padding_only__": True}, ours=True)
    assert make_loop(model).run([request(1), padding, padding], DOCS) == ["X 1?", "", ""]
    assert model.asked == ["x-1"]


def test_nothing_is_answered_twice(tmp_path: Path) -> None:
    requests = [request(i) for i in range(4)]
    for run, asked in enumerate([["x-0", "x-1", "x-2", "x-3"], []]):
        model = Model()
        with Journal(tmp_path) as journal:
            answers = make_loop(model, journal=journal).run(requests, DOCS)
        assert answers == ["X 0?", "X 1?", "X 2?", "X 3?"], f"run {run}"
        assert model.asked == asked


def test_repeats_of_a_request_are_samples_of_their_own(tmp_path: Path) -> None:
    model = Model()
    with Journal(tmp_path) as journal:
        make_loop(model, journal=journal).run([request(0), request(0), request(1)], DOCS)
    assert model.asked == ["x-0", "x-0", "x-1"]
    assert len(read_journal(tmp_path)) == 3


def test_one_failed_sample_costs_only_itself(tmp_path: Path) -> None:
    loop.failures.clear()
    model = Model(x_1=SampleError("the video is missing", path="/data/clip.mp4"))
    with Journal(tmp_path) as journal:
        answers = make_loop(model, journal=journal, batch_size=3, on_error="record").run(
            [request(i, ours=True) for i in range(3)], DOCS
        )
    assert model.batches == [["x-0", "x-1", "x-2"], ["x-0"], ["x-1"], ["x-2"]]
    records = [SampleRecord.from_json(answer[1]) for answer in answers]
    assert [record.status for record in records] == ["ok", "error", "ok"]
    assert records[1].reason == "the video is missing: /data/clip.mp4"
    assert [answer[0] for answer in answers] == ["X 0?", "", "X 2?"]
    assert loop.failures == Counter(x=1)


def test_a_failed_sample_ends_the_run_and_the_others_of_its_batch_are_kept(tmp_path: Path) -> None:
    model = Model(x_1=SampleError("the video is missing", path="/data/clip.mp4"))
    with Journal(tmp_path) as journal, pytest.raises(RunError) as error:
        make_loop(model, journal=journal, batch_size=3).run([request(i) for i in range(6)], DOCS)
    assert isinstance(error.value, SystemExit), "lmms-eval swallows every Exception"
    line = str(error.value)
    assert "task x, document 1: the video is missing: /data/clip.mp4" in line
    assert "\n" not in line
    assert sorted((r.doc_id, r.status) for r in read_journal(tmp_path)) == [
        (0, "ok"),
        (1, "error"),
        (2, "ok"),
    ]


def test_a_failed_sample_is_tried_again_in_the_next_run(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        make_loop(Model(x_1=SampleError("busy")), journal=journal, on_error="record").run([request(1)], DOCS)
    with Journal(tmp_path) as journal:
        assert make_loop(Model(), journal=journal).run([request(1)], DOCS) == ["X 1?"]


def test_a_flow_that_does_not_fit_one_prompt_is_that_samples_error() -> None:
    model = Model(x_0=FlowError("the prompt has no options"))
    with pytest.raises(RunError, match="document 0: the prompt has no options"):
        make_loop(model).run([request(0)], DOCS)


def test_a_model_may_report_failures_beside_answers() -> None:
    def answer(samples: list[Sample]) -> list[Outcome]:
        return [
            Outcome.ok("A"),
            Outcome.failed(SampleError("no question"), frames=(1,)),
            Outcome.failed(SkippedSampleError("not a question about a video")),
        ]

    answers = RequestLoop(key=lambda s: str(s.doc_id), answer=answer, batch_size=3, on_error="record").run(
        [request(i, ours=True) for i in range(3)], DOCS
    )
    records = records_of(answers)
    assert [record.status for record in records] == ["ok", "error", "skipped"]
    assert records[1].frames == (1,)


def test_arms_of_one_question_are_answered_together() -> None:
    """Whatever the order of the host's tasks; a batch is of questions."""
    model = Model()
    requests = [request(i, task, metadata={"base": "x"}) for task in "yx" for i in (0, 1, 2)]
    answers = make_loop(model, batch_size=2).run(requests, DOCS)
    assert answers == ["Y 0?", "Y 1?", "Y 2?", "X 0?", "X 1?", "X 2?"]
    assert model.batches == [["y-0", "x-0", "y-1", "x-1"], ["y-2", "x-2"]]


def test_a_killed_run_asks_only_for_the_arms_that_are_missing(tmp_path: Path) -> None:
    both = [request(i, task, metadata={"base": "x"}) for task in "yx" for i in (0, 1)]
    with Journal(tmp_path) as journal:
        make_loop(Model(), journal=journal).run([both[0], both[2]], DOCS)
    model = Model()
    with Journal(tmp_path) as journal:
        answers = make_loop(model, journal=journal).run(both, DOCS)
    assert model.batches == [["y-1", "x-1"]]
    assert answers == ["Y 0?", "Y 1?", "X 0?", "X 1?"]


def test_videos_are_announced_before_they_are_asked_for() -> None:
    model = Model()
    told: list[Sample] = []
    told_before: list[int] = []

    def answer(samples: Sequence[Sample]) -> list[Outcome]:
        told_before.append(len(told))
        return model.answer(samples)

    wanted = [request(i) for i in range(8)]
    RequestLoop(key=model.key, answer=answer, ahead=lambda samples: told.extend(samples)).run(wanted, DOCS)
    assert [sample.doc_id for sample in told] == list(range(8)), "each once, in order"
    assert told_before[0] == 1 + loop.BATCHES_AHEAD
    assert model.asked == [f"x-{i}" for i in range(8)]


def test_a_clip_that_the_data_set_does_not_hand_out_is_skipped(tmp_path: Path, log: list[str]) -> None:
    def key(sample: Sample) -> str:
        if sample.doc_id == 1:
            raise MissingVideoError("the video is missing", path="/clips/1.mp4")
        return str(sample.doc_id)

    for metadata, status in (({"missing_clips": "skip"}, "skipped"), ({}, "error")):
        asked = [request(i, ours=True, metadata=metadata) for i in range(3)]
        answers = RequestLoop(key=key, answer=Model().answer, on_error="record").run(asked, DOCS)
        records = records_of(answers)
        assert [record.status for record in records] == ["ok", status, "ok"]
        assert "/clips/1.mp4" in records[1].reason
    told = "1 of 3 samples were skipped (x: 1): 1 x the video is missing: /clips/1.mp4"
    assert any(told in line for line in log)
    with pytest.raises(RunError, match="the video is missing"):
        RequestLoop(key=key, answer=Model().answer).run([request(1)], DOCS)
    RequestLoop(key=key, answer=Model().answer).run([request(1, metadata={"missing_clips": "skip"})], DOCS)


def test_many_that_ended_are_told_in_one_line_with_their_reasons(log: list[str]) -> None:
    def key(sample: Sample) -> str:
        raise SampleError(
            ("the disk is slow", "the video is dark", "the sound is loud", "else")[sample.doc_id % 4]
        )

    docs = {f"task_{letter}": DOCS["x"] for letter in "abcd"}
    asked = [request(i, task=task, ours=True) for task in docs for i in range(5)]
    RequestLoop(key=key, answer=Model().answer, on_error="record").run(asked, docs)
    (line,) = [line for line in log if "samples failed" in line]
    assert line.strip().endswith(
        "20 of 20 samples failed (in 4 tasks): 8 x the disk is slow; 4 x the video is dark; 4 x the sound is loud; "
        "1 more"
    )


def stops(doc: dict[str, Any]) -> list[dict[str, Any]]:
    sys.exit("video path: clip.mp4 does not exist")


def breaks(doc: dict[str, Any]) -> list[dict[str, Any]]:
    return doc["messages"]


@pytest.mark.parametrize(
    ("messages", "says"), [(stops, "clip.mp4 does not exist"), (breaks, "KeyError: 'messages'")]
)
def test_a_task_that_can_not_make_its_prompt_fails_that_sample(
    messages: Any, says: str, tmp_path: Path
) -> None:
    with Journal(tmp_path) as journal:
        answers = make_loop(Model(), journal=journal, on_error="record").run(
            [request(0, messages=messages), request(1)], DOCS
        )
    assert answers == ["", "X 1?"]
    assert says in read_journal(tmp_path)[0].reason


def test_a_bug_ends_the_run_with_one_line_and_a_traceback(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RunError, match="task x, document 0: ZeroDivisionError: a bug"):
        make_loop(Model(x_0=ZeroDivisionError("a bug")), on_error="record").run([request(0)], DOCS)
    assert "Traceback" in capfd.readouterr().err


def test_a_wrong_number_of_outcomes_ends_the_run() -> None:
    with pytest.raises(RunError, match="0 outcomes for 1 samples"):
        RequestLoop(key=lambda s: "", answer=lambda batch: []).run([request(0)], DOCS)


def test_a_field_that_a_record_has_not_ends_the_run() -> None:
    wrong = RequestLoop(key=lambda s: "", answer=lambda batch: [Outcome.ok("A", colour="red")])  # type: ignore[call-arg]
    with pytest.raises(RunError, match="colour"):
        wrong.run([request(0)], DOCS)


def test_an_interrupt_passes_through() -> None:
    with pytest.raises(KeyboardInterrupt):
        make_loop(Model(x_0=KeyboardInterrupt())).run([request(0)], DOCS)


class Crowded(Model):
    """Has memory for one sample at a time, or for less."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room = room

    def answer(self, samples: Sequence[Sample]) -> list[Outcome]:
        import torch

        outcomes = super().answer(samples)
        if len(samples) > self.room:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return outcomes


def test_out_of_memory_is_tried_once_more_one_by_one() -> None:
    model = Crowded(room=1)
    assert make_loop(model, batch_size=2).run([request(0), request(1)], DOCS) == ["X 0?", "X 1?"]
    assert model.batches == [["x-0", "x-1"], ["x-0"], ["x-1"]]


def test_out_of_memory_for_a_single_sample_is_its_error() -> None:
    model = Crowded(room=0)
    with pytest.raises(RunError, match="document 0: out of memory"):
        make_loop(model).run([request(0)], DOCS)
    assert model.batches == [["x-0"], ["x-0"]], "tried twice and no more"


def test_a_flow_file_edited_in_between_is_told_and_not_served(tmp_path: Path, log: list[str]) -> None:
    for digest, asked in (("d1", ["x-0"]), ("d2", ["x-0"]), ("d2", [])):
        model = Model(digest)
        fields = said(flow="late.yaml", flow_digest=digest)
        with Journal(tmp_path) as journal:
            make_loop(model, journal=journal, fields=fields).run([request(0)], DOCS)
        assert model.asked == asked
    assert sum("'late.yaml' changed since" in line for line in log) == 1


def test_a_served_answer_carries_the_labels_of_this_run(tmp_path: Path) -> None:
    """The same meaning, written otherwise since: the key is the same, and the record says what is written now."""
    for flow, asked in (("video:last+video:tail", ["x-0"]), ("video:tail+video:last", [])):
        model = Model()
        with Journal(tmp_path) as journal:
            fields = said(flow=flow, flow_digest="d", protocol="paper")
            answers = make_loop(model, journal=journal, fields=fields).run([request(0, ours=True)], DOCS)
        assert model.asked == asked
        assert records_of(answers)[0].flow == flow


def test_the_log_tells_what_came_from_the_journal(tmp_path: Path, log: list[str]) -> None:
    for _ in range(2):
        with Journal(tmp_path) as journal:
            make_loop(Model(), journal=journal).run([request(i) for i in range(3)], DOCS)
    assert any("0 of 3 answers are from the journal" in line for line in log)
    assert any("3 of 3 answers are from the journal" in line and str(tmp_path) in line for line in log)


@pytest.mark.parametrize(("argument", "value"), [("on_error", "ignore"), ("batch_size", 0)])
def test_arguments_are_checked(argument: str, value: Any) -> None:
    with pytest.raises(ValueError, match=argument):
        make_loop(Model(), **{argument: value})


@pytest.fixture
def log() -> Iterator[list[str]]:
    from loguru import logger

    lines: list[str] = []
    sink = logger.add(lines.append, format="{message}")
    yield lines
    logger.remove(sink)


VICTIM = """
import sys, time
from pathlib import Path
from lmms_flow.records.journal import Journal
from lmms_flow.harness.loop import RequestLoop
from lmms_flow.harness.sample import Outcome
from tests.support.requests import DOCS, request

folder, asked = Path(sys.argv[1]), Path(sys.argv[2])

def answer(samples):
    with asked.open("a") as file:
        file.write(samples[0].id + chr(10))
    time.sleep(0.03)
    return [Outcome.ok(samples[0].doc["question"].upper(), notes=("x" * 2000,))]

loop = RequestLoop(key=lambda s: f"{s.task}-{s.doc_id}", answer=answer, journal=Journal(folder))
print(loop.run([request(i, task) for task in "xy" for i in range(10)], DOCS))
"""


def test_a_run_killed_at_any_moment_goes_on_where_it_was(tmp_path: Path) -> None:
    """Killed again and again by SIGKILL, it answers no sample twice and ends with the same answers."""
    asked = tmp_path / "asked"
    command = [sys.executable, "-c", VICTIM, str(tmp_path / "journal"), str(asked)]
    moments = random.Random(7)
    kills = 0
    for target in (3, 9, 15, 1000):
        run = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        while run.poll() is None and (not asked.exists() or len(asked.read_text().split()) < target):
            time.sleep(0.005)
        time.sleep(moments.uniform(0, 0.04))  # before, while or after the answer is written
        run.send_signal(signal.SIGKILL)
        last, _ = run.communicate()
        kills += run.returncode == -signal.SIGKILL
    assert kills >= 1
    assert json.loads(last.replace("'", '"')) == [f"{task.upper()} {i}?" for task in "xy" for i in range(10)]
    kept = Counter(record.id for record in read_journal(tmp_path / "journal"))
    assert set(kept.values()) == {1}, "a sample was answered twice"
    assert len(kept) == 20
    assert len(asked.read_text().split()) <= 20 + kills, "more than the sample in flight was asked again"
