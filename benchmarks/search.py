"""The search for a pathway on the bundled model and benchmark, with its arms answered by processes of this script.

`lmms-flow discover DIR --search` asks lmms-eval. Here the same search and the same comparison on held-out questions ask
a pool of processes, each with the model in memory and a share of the questions. So it needs no lmms-eval, and takes
minutes where there are many cores. The answers are the same: first token, greedy, the sparse engine off one baseline.

    python -m benchmarks.search --map map.json --of out/map/results     # once: the flow map that a search starts from
    python -m benchmarks.search --map map.json --processes 16 --json search.json
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from lmms_flow.assets import flow_tiny_dir, flowbench_dir
from lmms_flow.flow import Flow
from lmms_flow.flow.controls import NONE
from lmms_flow.report.arms import Arm, ScoredSample
from lmms_flow.report.discover import Rule, discover, find
from lmms_flow.report.kept import Kept
from lmms_flow.report.search_arms import Arms
from lmms_flow.report.search_page import searched_file, tables_of
from lmms_flow.report.search_runs import Outcome, search_with
from lmms_flow.report.searching import Score
from lmms_flow.trace.curves import FlowMap, MapSample

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


@dataclass
class PoolArms(Arms):
    """Arms that processes answer, each its own share of the questions; `journal` keeps every answer."""

    pools: Sequence[Any] = ()
    journal: Path = Path("answers.jsonl")
    log: list[str] = field(default_factory=list)
    _answered: dict[tuple[str, int, str], ScoredSample] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Reads what an earlier run answered."""
        lines = self.journal.read_text("utf-8").splitlines() if self.journal.exists() else ()
        for digest, written in map(json.loads, lines):
            sample = ScoredSample(**written)
            self._answered[sample.task, sample.doc_id, digest] = sample

    def answer(self, flows: Mapping[str, Mapping[str, Any] | str], first: int, count: int) -> dict[str, Arm]:
        """The arms of these flows on questions of each task, and full attention's."""
        start = time.perf_counter()
        texts = {NONE.name: NONE.name, **{name: self._flow(name, flow) for name, flow in flows.items()}}
        digests = {text: Flow.load(text).bind(self.flow_map.num_layers).digest for text in texts.values()}
        tasks = self.flow_map.subtasks
        questions = [(task, number) for number in range(first, first + count) for task in tasks]
        self._ask_for(questions, digests)
        seconds = time.perf_counter() - start
        self.log.append(f"{len(texts)} arms on {len(questions)} questions from {first}: {seconds:.1f} s")
        print(self.log[-1], flush=True)
        return {
            name: Arm(
                "flow-tiny", text, digests[text], "sparse", 8,
                samples={question: self._answered[*question, digests[text]] for question in questions},
            )
            for name, text in texts.items()
        }  # fmt: skip

    def _ask_for(self, questions: Sequence[Question], digests: Mapping[str, str]) -> None:
        """Asks what is not known yet; each process has its own questions."""
        waiting = []
        for place, question in enumerate(questions):
            new = [text for text, digest in digests.items() if (*question, digest) not in self._answered]
            if new:
                pool = self.pools[place % len(self.pools)]
                waiting.append((new, pool.apply_async(answers, ((question, new),))))
        with self.journal.open("a", encoding="utf-8") as handle:
            for new, each in waiting:
                for text, sample in zip(new, each.get(), strict=True):
                    self._answered[sample.task, sample.doc_id, digests[text]] = sample
                    handle.write(json.dumps([digests[text], asdict(sample)]) + "\n")
                handle.flush()

    def ask(self, pathways: Sequence[Kept], questions: int) -> Mapping[Kept, Score]:
        """Calibration questions under pathways; what was found is printed, in case nothing more is."""
        found = super().ask(pathways, questions)
        for each, score in found.items():
            beside = score.paired
            said = f"{score.edges:.4f} {score.change:+6.2f} % -{beside.lost} +{beside.won}"
            print(f"  {said} {each.pathway} {each.rules}", flush=True)
        return found


def map_from(written: dict[str, Any]) -> FlowMap:
    """A flow map from its JSON."""
    arrays = ("baseline_options", "probability", "options", "prediction")
    samples = []
    for one in written.pop("samples"):
        made = {name: tuple(value) if isinstance(value, list) else value for name, value in one.items()}
        samples.append(MapSample(**made | {name: np.array(one[name]) for name in arrays}))
    told: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in written.items()
    }
    return FlowMap(**told, samples=tuple(samples))


def measured(outcome: Outcome, margin: float, runner: PoolArms) -> dict[str, Any]:
    """What is kept of a search, for the documents."""
    best = outcome.found.best
    held = [
        {
            "name": one.name,
            "kind": one.kind,
            "accuracy": one.accuracy,
            "edges": one.score.edges,
            "flops": one.score.flops,
            "change": one.score.change,
            **asdict(one.score.paired),
            "equivalence": one.score.paired.equivalence(margin),
        }
        for one in outcome.held
    ]
    return {
        "margin": margin,
        "calibration": runner.calibration * len(runner.flow_map.subtasks),
        "best": {
            "name": str(best),
            **best.content,
            "edges": {e: str(list(k)) for e, k in best.edges.items()},
        },
        "rule": {"name": str(outcome.rule), **outcome.rule.content},
        "areas": {kind: asdict(each) for kind, each in outcome.areas.items()},
        "held_out": held,
        "rounds": runner.log,
    }


def main() -> None:
    """Reads the map, or searches from it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument(
        "--map", type=Path, required=True, help="the flow map, written with --of and read without it"
    )
    parser.add_argument("--of", help="the folder of a map's run")
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--questions", type=int, default=1000, help="of each task at most")
    parser.add_argument("--arms", type=int, default=16)
    parser.add_argument("--margin", type=float, default=0.02)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    if args.of:
        args.map.write_text(
            json.dumps(asdict(find([args.of], Rule()).of), default=lambda value: value.tolist()),
            encoding="utf-8",
        )
        return
    discovery = discover(map_from(json.loads(args.map.read_text("utf-8"))), Rule())
    of = discovery.of
    questions = min(args.questions, *(sum(one.task == task for one in of.samples) for task in of.subtasks))
    folder = args.map.resolve().with_suffix("")
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:  # a pool of one process each, so that a question stays where it is known
        pools = [stack.enter_context(get_context("spawn").Pool(1)) for _ in range(args.processes)]
        nobody: Any = None  # no run of lmms-eval is gone on from
        runner = PoolArms(nobody, of, folder, questions, pools=pools, journal=folder / "answers.jsonl")
        outcome = search_with(runner, discovery, args.margin, args.arms)
    for table in tables_of(outcome, args.margin):
        print(table.title, *table.texts(), sep="\n")
    content = searched_file(discovery, outcome, args.margin, "found", ["python", "-m", "benchmarks.search"])
    found = measured(outcome, args.margin, runner) | {"flow": content}
    print(json.dumps(found["best"]))
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
