"""Made-up output of a run with arms and traces: logs, and the arrays that the traces of a question would have."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lmms_flow.flow.trace_settings import TARGET_SETS
from lmms_flow.records.arrays import Arrays, place_of, write_arrays
from tests.support.lmms_logs import TIME, record, write_lines, write_log, write_results

LAYERS, FRAMES, SIDE = 12, 4, 3
RULES = tuple(dict.fromkeys(rule for rules in TARGET_SETS.values() for rule in rules))
LETTERS = ("A", "B")


def arrays_of(
    right: bool,
    seed: int,
    rules: Sequence[str] = RULES,
    words: Sequence[str] = ("bag", " up"),
    style: str = "center",
) -> Arrays:
    """What a trace of one question reads out: full attention says A, which is right or wrong.

    Every rule has its own depth, so that a curve that is drawn for another is seen.
    """
    rng = np.random.default_rng(seed)
    tokens = FRAMES * SIDE * SIDE
    layers = np.arange(LAYERS)
    falls = [
        0.8 * np.exp(-(((layers - place) / 2) ** 2)) * (place + 1) / len(rules) for place in range(len(rules))
    ]
    probability = (0.9 * (1 - np.stack(falls)) + 0.001 * rng.random((len(rules), LAYERS))).astype(np.float32)
    if style == "to_layer":  # what is cut stays cut
        probability = np.minimum.accumulate(probability, axis=1)
    elif style == "from_layer":
        probability = np.minimum.accumulate(probability[:, ::-1], axis=1)[:, ::-1]
    options = np.stack([probability, 1 - probability], axis=-1)
    true = "A" if right else "B"
    baseline = np.array([0.9, 0.1], dtype=np.float32)
    rows = rng.random((LAYERS, 2, FRAMES)).astype(np.float32) / 10
    values: dict[str, np.ndarray[Any, Any]] = {
        "map.probability": probability,
        "map.prediction": np.where(probability > 0.5, 1, 2).astype(np.int32),
        "map.options": options,
        "map.baseline": baseline[:1],
        "map.baseline_options": baseline,
        "generation_probability.head": np.linspace([0.1, 0.1], baseline, LAYERS).astype(np.float32),
        "generation_probability.normed": np.linspace([0.2, 0.1], baseline, LAYERS).astype(np.float32),
        "logit_lens.tokens": rng.integers(0, len(words), (LAYERS, tokens, 5)).astype(np.int32),
        "logit_lens.probabilities": rng.random((LAYERS, tokens, 5)).astype(np.float32),
    }
    for target in ("question", "options", "last"):
        values[f"attention.{target}"] = rows
        values[f"attention.{target}.tokens"] = rng.random((LAYERS, tokens)).astype(np.float16)
    spans = [[3 + frame * SIDE * SIDE, 3 + (frame + 1) * SIDE * SIDE] for frame in range(FRAMES)]
    about = {
        "knockouts": list(rules),
        "centres": list(range(1, LAYERS + 1)),
        "window": 3,
        "style": style,
        "num_layers": LAYERS,
        "frames": spans,
        "letters": list(LETTERS),
        "true_letter": true,
        "letter_tokens": {"A": [1], "B": [2]},
        "answer_token": 1,
        "answer": "A",
        "words": {str(token): word for token, word in enumerate(words)},
    }
    return Arrays(values, about)


def write_traced(
    folder: Path,
    correct: Sequence[bool],
    base: str = "tvbench_flow_object_count",
    *,
    words: Sequence[str] = ("bag", " up"),
    rules: Sequence[str] = RULES,
    style: str = "center",
    time: str = TIME,
    **fields: Any,
) -> None:
    """The log of a trace under `folder/results`, and its arrays under `folder/records`."""
    task = base.replace("_flow_", f"_flow_trace_{'' if style == 'center' else style + '_'}")
    rows = []
    for doc_id, right in enumerate(correct):
        arrays = arrays_of(right, doc_id, rules, words, style)
        place = place_of(task, f"key{doc_id}-{time}")
        write_arrays(folder / "records", place, arrays, "part")
        told = {
            "base": base,
            "task": task,
            "trace": style,
            "arrays": place,
            "clip": f"clip {doc_id // 2}",
            **fields,
        }
        made = record(doc_id, right, "none", shapes=arrays.shapes, num_layers=LAYERS, **told)
        rows.append(
            {
                "doc_id": doc_id,
                "target": "A",
                "input": f"question {doc_id}",
                "record": made,
                "accuracy": float(right),
            }
        )
    write_lines(folder / "results" / f"{time}_samples_{task}.jsonl", rows)


def write_run(folder: Path, right: int = 12, wrong: int = 4, **fields: Any) -> Path:
    """A run of three arms and a trace on one task; the folder that is reported."""
    base, results = "tvbench_flow_object_count", folder / "results"
    told = {
        "base": base,
        "num_layers": LAYERS,
        "runtime": "float32 on cpu, sdpa attention, torch 2.15.0",
        **fields,
    }
    options = {"A": 0.9, "B": 0.1}
    write_log(results, "none", [True] * right + [False] * wrong, base, options=options, **told)
    arms = {
        "cross_frame@1-6": ([False] * 5 + [True] * (right - 5 + wrong), 60),
        "blind": ([False] * (right + wrong), 10),
    }
    for flow, (answers, kept) in arms.items():
        task = f"tvbench_flow_{flow.partition('@')[0]}_object_count"
        write_log(results, flow, answers, task, options={"A": 0.3, "B": 0.7}, edges_kept=kept, **told)
    write_traced(folder, [True] * right + [False] * wrong, base, **fields)
    write_results(results, f"pretrained=tiny,records={folder / 'records'}", {})
    return results
