"""lmms-eval's generation settings, read for transformers."""

from __future__ import annotations

import copy

import pytest

from lmms_flow.harness.generation import DEFAULT_NEW_TOKENS, cut_at_stops, generation_arguments

ALWAYS = {"use_cache": True, "num_return_sequences": 1}  # whatever a checkpoint's own settings say
GREEDY = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {"max_new_tokens": DEFAULT_NEW_TOKENS, **GREEDY}),
        ({"max_new_tokens": 1, "temperature": 0, "do_sample": False}, {"max_new_tokens": 1, **GREEDY}),
        (
            {"max_new_tokens": 8, "top_p": 1.0, "num_beams": 1},
            {"max_new_tokens": 8, "num_beams": 1, **GREEDY},
        ),
        ({"max_new_tokens": 8, "do_sample": False, "temperature": 0.7}, {"max_new_tokens": 8, **GREEDY}),
        (
            {"max_new_tokens": 8, "temperature": 0.7, "top_p": 0.9},
            {"max_new_tokens": 8, "temperature": 0.7, "top_p": 0.9, "do_sample": True},
        ),
        (
            {"max_new_tokens": None, "until": ["x"], "image_aspect_ratio": "pad"},
            {"max_new_tokens": DEFAULT_NEW_TOKENS, **GREEDY},
        ),
    ],
)
def test_arguments(given: dict, expected: dict) -> None:
    before = copy.deepcopy(given)
    assert generation_arguments(given) == expected | ALWAYS
    assert given == before  # the host computes the key of its cache from it


@pytest.mark.parametrize(
    ("until", "expected"),
    [
        (None, "A. left\n\nB"),
        (["\n\n"], "A. left"),
        ("\n\n", "A. left"),
        (["B", ". "], "A"),
        ([""], "A. left\n\nB"),
        (["x"], "A. left\n\nB"),
    ],
)
def test_stops(until: object, expected: str) -> None:
    assert cut_at_stops("A. left\n\nB", {"until": until}) == expected
