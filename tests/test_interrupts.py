"""Ctrl-C and SIGTERM: one line, nothing lost, the status that a shell expects; and what a run says of itself."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lmms_flow.harness import telling
from lmms_flow.harness.evaluate import main
from lmms_flow.harness.host_table import without_zeros
from lmms_flow.harness.interrupts import told_in_one_line
from lmms_flow.harness.loop import RequestLoop
from lmms_flow.harness.sample import Outcome, Sample
from lmms_flow.records.fields import RunFields
from lmms_flow.records.journal import Journal
from tests.support.requests import DOCS, request


def answering(journal: Journal, stop_at: int = 99, number: int = signal.SIGINT) -> RequestLoop:
    """A loop whose model is stopped while it answers a document."""

    def answer(samples: Sequence[Sample]) -> list[Outcome]:
        if samples[0].doc_id == stop_at:
            os.kill(os.getpid(), number)
        return [Outcome.ok("A") for _ in samples]

    fields = lambda task, metadata, sample: RunFields(flow="none", flow_digest="d")  # noqa: E731
    return RequestLoop(key=lambda s: f"{s.task}-{s.doc_id}", answer=answer, journal=journal, fields=fields)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_run_that_is_stopped_says_what_is_kept_and_goes_on_from_there(
    number: int, status: int, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    requests = [request(i) for i in range(5)]
    before = signal.getsignal(number)
    with Journal(tmp_path) as journal:
        loop = answering(journal, 3, number)
        with pytest.raises(SystemExit) as stop, told_in_one_line(loop.kept):
            loop.run(requests, DOCS)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    assert stop.value.code == status
    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("lmms_flow: stopped")]
    name = signal.Signals(number).name
    kept = f"3 answers are kept in {tmp_path}; the same command goes on from there"
    assert lines == [f"lmms_flow: stopped by {name}: {kept}"]
    assert number == signal.SIGINT or signal.getsignal(number) == before
    with Journal(tmp_path) as journal:
        assert journal.held({"x"}) == 3
        again = answering(journal)
        again.run(requests, DOCS)
    assert again.ended() == "5 answers: 3 from the records, 2 new"


def test_without_records_nothing_is_promised(capfd: pytest.CaptureFixture[str]) -> None:
    loop = RequestLoop(key=lambda s: "", answer=lambda s: [])
    with pytest.raises(SystemExit), told_in_one_line(loop.kept):
        raise KeyboardInterrupt
    signal.signal(signal.SIGINT, signal.default_int_handler)
    assert capfd.readouterr().err == "lmms_flow: stopped by SIGINT: no answer is kept (records=none)\n"


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_lmms_flow_eval_that_is_stopped_anywhere_ends_with_that_status(
    number: int, status: int, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from lmms_eval import __main__ as host

    monkeypatch.setattr(host, "cli_evaluate_single", lambda args: os.kill(os.getpid(), number))
    with pytest.raises(SystemExit) as stop:
        main(["--model", "dummy", "--tasks", "flowbench"])
    signal.signal(signal.SIGINT, signal.default_int_handler)
    assert stop.value.code == status
    err = capfd.readouterr().err
    assert "the same command goes on from there" in err
    assert "Traceback" not in err


# What a run says of itself


def test_what_is_asked_is_counted_and_named() -> None:
    asked = [request(i, "bench") for i in range(3)]
    asked += [request(i, "bench_blind", metadata={"base": "bench", "flow": "blind"}) for i in range(3)]
    assert telling.asked_for(asked, "none") == [
        "6 answers to 3 questions of 2 tasks: bench, bench_blind",
        "2 flows: none, blind",
    ]
    assert telling.asked_for(asked[:1], "video:last") == [
        "1 answers to 1 questions of task bench",
        "flow: video:last",
    ]


def test_the_next_command_is_named() -> None:
    def asked(**given: Any) -> dict[str, Any]:
        return {"cli_args": SimpleNamespace(**given)}

    written = asked(output_path="out", log_samples=True)
    assert telling.what_next(written, traced=False).endswith(": lmms-flow compare out")
    assert telling.what_next(written, traced=True).endswith(": lmms-flow report out")
    assert "--log_samples --output_path DIR" in telling.what_next(
        asked(output_path=None, log_samples=False), traced=False
    )
    assert telling.what_next(None, traced=False) == ""


def test_a_bar_in_a_file_is_written_once_a_minute(capfd: pytest.CaptureFixture[str]) -> None:
    bar = telling.progress(5000, shown=True)
    for _ in range(5000):
        bar.update()
    bar.close()
    written = capfd.readouterr().err
    assert bar.mininterval == 60
    assert len(written) < 400, "the first and the last state"
    assert "5000/5000" in written


def test_zero_counters_of_ours_are_not_printed_and_others_are() -> None:
    from lmms_eval.utils import make_table

    ours = {"alias": "ours", "accuracy,none": 0.5, "errors,none": 0, "skipped,none": 0, "unreadable,none": 0}
    failed = {"alias": "failed", "accuracy,none": 0.5, "errors,none": 2, "skipped,none": 0}
    stock = {"alias": "stock", "errors,none": 0, "wer,none": 0}
    results = {"results": {"a": ours, "b": failed, "c": stock}, "n-shot": {}, "higher_is_better": {}}
    shown = without_zeros(results, "results")["results"]
    assert list(shown["a"]) == ["alias", "accuracy,none"]
    assert list(shown["b"]) == ["alias", "accuracy,none", "errors,none"]
    assert shown["c"] == stock
    assert "errors,none" in ours, "what is written keeps them"
    assert make_table(without_zeros(results, "results")).count("|errors") == 2
