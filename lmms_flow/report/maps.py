"""Reads the flow maps of runs: from records and arrays to curves.

for each in read_maps("out"):
    curve = each.curve("video:question", among="right")
    print(each.benchmark, curve.layers, curve.mean, curve.low, curve.high)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..flow.trace_settings import HOW
from ..records.arrays import Arrays
from ..records.record import SampleRecord
from ..trace.curves import FlowMap, MapSample
from .alike import collected, in_windows
from .traces import Folders, Traced, read_traces

PROBABILITY = "map.probability"


def read_maps(folders: str | Path | Folders, records: Folders = ()) -> list[FlowMap]:
    """The flow maps in lmms-eval's output folders, or in folders of records; see `read_traces`.

    One for each checkpoint, benchmark, number of frames, protocol, set of knockouts and kind of window, in this order.
    Raises ReportError where something can't be read; a folder without a map gives none.
    """
    return maps_of(read_traces(folders, records))


def maps_of(traced: Sequence[Traced]) -> list[FlowMap]:
    """The flow maps among traced samples. Raises ReportError where the arrays of one can't be read."""
    return collected(traced, PROBABILITY, "map", _read)


def _read(one: Traced, arrays: Arrays) -> tuple[FlowMap, MapSample]:
    record, values, about = one.record, arrays.values, arrays.about
    asked = FlowMap(**in_windows(one, about), how=str(about.get("how", HOW[0])))
    true = about["true_letter"]
    letter_tokens = {letter: tuple(tokens) for letter, tokens in about["letter_tokens"].items()}
    made = MapSample(
        id=record.id,
        doc_id=record.doc_id,
        task=record.base,
        category=record.category,
        clip=one.cluster,
        letters=tuple(about["letters"]),
        true_letter=true,
        answer=str(about["answer"]),
        baseline=float(values["map.baseline"][0]),
        baseline_options=values["map.baseline_options"].astype(np.float64),
        probability=values[PROBABILITY].astype(np.float64),
        options=values["map.options"].astype(np.float64),
        prediction=values["map.prediction"].astype(np.int64),
        true_tokens=letter_tokens.get(true, ()),
        right=None if true is None else is_right(record, str(about["answer"]), about, true),
    )
    _check(made, len(asked.knockouts), len(asked.centres))
    return asked, made


def is_right(record: SampleRecord, answer: str, about: Mapping[str, Any], true: str) -> bool:
    """Whether the first token is the right letter; in the paper's protocol the baseline's may be of either case."""
    same = answer.upper() == true and record.protocol == "paper"
    return same or int(about["answer_token"]) in about["letter_tokens"][true]


def _check(made: MapSample, knockouts: int, centres: int) -> None:
    grid, options = (knockouts, centres), len(made.letters)
    shapes = (made.probability.shape, made.prediction.shape, made.options.shape, made.baseline_options.shape)
    if shapes != (grid, grid, (*grid, options), (options,)):
        raise ValueError(f"its arrays have the shapes {shapes}")
