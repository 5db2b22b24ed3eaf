"""Questions of the bundled benchmark under many flows off one baseline, without lmms-eval, for a pool of processes.

The answers are those of a run of lmms-eval: the prompt of the benchmark's tasks, the first token, greedy, the sparse
engine.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from lmms_flow.assets import flow_tiny_dir, flowbench_dir
from lmms_flow.flow import Flow
from lmms_flow.flow.controls import NONE
from lmms_flow.report.arms import ScoredSample

Question = tuple[str, int]  # task, document


@cache
def rows(task: str) -> list[dict[str, Any]]:
    """The documents of a task of the bundled benchmark."""
    file = flowbench_dir() / f"{task.removeprefix('flowbench_')}.jsonl"
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()]


@cache
def loaded() -> Any:
    """The bundled model, in this process."""
    import torch
    from transformers import AutoModelForImageTextToText, AutoProcessor

    import lmms_flow

    torch.set_num_threads(1)
    folder = flow_tiny_dir()
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    return lmms_flow.load(model, AutoProcessor.from_pretrained(folder))


@cache
def prompt(question: Question) -> Any:
    """A question as the benchmark's tasks ask it."""
    task, number = question
    row = rows(task)[number]
    place = row["candidates"].index(row["answer"])
    video = str(flowbench_dir() / row["video"])
    return loaded().prompt(video, row["question"], row["candidates"], answer=place)


@dataclass
class Known:
    """What is kept of a question from round to round: its vision pass, its baseline, and the answer of that."""

    vision: dict[Any, Any]
    baseline: Any
    answer: ScoredSample


_known: dict[Question, Known] = {}


def answers(asked: tuple[Question, Sequence[str]]) -> list[ScoredSample]:
    """One question under each of these flows, off one baseline."""
    import torch

    from lmms_flow.engine import intervene, one_vision_pass

    question, texts = asked
    one, whole = prompt(question), loaded()
    with torch.inference_mode(), one_vision_pass(whole.model) as passes:
        if question not in _known:
            _known[question] = _first(question, passes)
        known = _known[question]
        passes._kept.update(known.vision)
        found = []
        for text in texts:
            flow = Flow.load(text)
            if not flow.needs_masks:
                found.append(known.answer)
                continue
            with intervene(whole, flow, one.layout, baseline=known.baseline):
                found.append(_scored(question, flow, _logits(one.inputs)))
    return found


def _first(question: Question, passes: Any) -> Known:
    from lmms_flow.engine import Baseline

    whole, none = loaded(), Flow.load(NONE.name)
    baseline = Baseline(frozenset(range(1, whole.flows.own.bound.num_layers + 1)))
    with baseline.recording(whole.model):
        logits = _logits(prompt(question).inputs)
    return Known(dict(passes._kept), baseline, _scored(question, none, logits))


def _logits(inputs: Mapping[str, Any]) -> Any:
    """Of the answer's first token, [vocabulary]; as a run generates it."""
    out = loaded().generate(
        **inputs, max_new_tokens=1, do_sample=False, return_dict_in_generate=True, output_logits=True
    )
    return out.logits[0][0].float()


def _scored(question: Question, flow: Flow, logits: Any) -> ScoredSample:
    from lmms_flow.engine import ledger

    (task, number), whole, layout = question, loaded(), prompt(question).layout
    row = rows(task)[number]
    kept, total = flow.kept_edges(layout, whole.flows.own.bound.num_layers)
    cost = ledger(whole, flow, layout)
    shares = logits.softmax(-1)
    options = {
        letter: float(shares[whole.tokens_of_letter(letter)].sum())
        for letter in "ABCDEFGH"[: len(row["candidates"])]
    }
    said = whole.tokenizer.decode([int(logits.argmax())])
    return ScoredSample(
        task, number, said == row["answer_letter"], "ok", answer=said, target=row["answer_letter"], edges_kept=kept,
        edges_total=total, flops=cost.flops, flops_full=cost.flops_full, options=options,
    )  # fmt: skip
