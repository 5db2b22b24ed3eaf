"""The soak of faults: a round is the same in every run, journals survive each of their faults, hooks are counted."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest
import torch

from lmms_flow.errors import FlowError, RunError
from lmms_flow.flow import Flow
from lmms_flow.records.journal import Journal
from lmms_flow.records.record import SampleRecord
from scripts import faults


def test_flows_are_drawn_of_every_kind() -> None:
    kinds: set[str] = set()
    for seed in range(200):
        try:
            kinds.add(Flow.load(faults.flow_text(Random(seed))).kind)
        except FlowError:  # a source behind its target: refused, and counted
            kinds.add("refused")
    assert kinds == {"cuts", "pathway", "random", "sham", "refused"}


def test_journals_lose_nothing_under_any_of_their_faults(tmp_path: Path) -> None:
    seen = {faults.journal_round(Random(seed), tmp_path) for seed in range(25)}
    assert seen == {"none", "disk full", "torn line", "two runs"}


def test_a_lost_answer_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Journal, "_remember", lambda *_: None)  # what was answered is answered again
    with pytest.raises(AssertionError, match="the journal in"):
        faults.journal_round(Random(0), tmp_path)


def test_a_full_disk_is_full_and_then_is_not(tmp_path: Path) -> None:
    record = SampleRecord(id="0", task="t", doc_id=0, status="ok")
    with Journal(tmp_path) as journal:
        with faults.full_disk(), pytest.raises(RunError, match="No space left"):
            journal.write("0", record)
        journal.write("0", record)
    assert [len(file.read_text().splitlines()) for file in tmp_path.glob("*.jsonl")] == [1]


@pytest.mark.parametrize("fault", faults.FAULTS)
def test_a_layer_breaks_and_is_whole_again(fault: str) -> None:
    layer = torch.nn.Module()
    layer.self_attn = torch.nn.Linear(2, 2)
    with pytest.raises(type(faults.FAULTS[fault]())), faults.breaking(layer, fault):
        layer.self_attn(torch.ones(1, 99, 2))
    assert layer.self_attn(torch.ones(1, 99, 2)).shape == (1, 99, 2)
    assert faults.hooks_of(layer) == 0
