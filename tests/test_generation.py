"""lmms-eval's generation settings, read for transformers."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import pytest

from lmms_flow.errors import RunError
from lmms_flow.runner.generation import (
    APPLIED,
    DEFAULT_NEW_TOKENS,
    check_generation,
    cut_at_stops,
    generation_arguments,
    generation_key,
)

ALWAYS = {
    "use_cache": True,
    "num_return_sequences": 1,
    "num_beams": 1,
}  # whatever a checkpoint's own settings say
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
def test_arguments(given: dict[str, Any], expected: dict[str, Any]) -> None:
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


# What the command line asks for


def check(task: dict[str, Any], given: dict[str, Any]) -> None:
    """As lmms-eval does it: the command line's settings replace the task's."""
    args: tuple[Any, ...] = ("", lambda doc: [], {**task, **given}, 0, "some_task", "test")
    check_generation([SimpleNamespace(args=args)], given)


GREEDY_TASK = {"max_new_tokens": 4, "temperature": 0, "do_sample": False, "num_beams": 1, "until": ["x"]}


@pytest.mark.parametrize(
    ("task", "given", "says"),
    [
        (GREEDY_TASK, {"temperature": 80.0}, "it says do_sample=False; add do_sample=True"),
        (GREEDY_TASK, {"temperature": 80}, "it says do_sample=False; add do_sample=True"),
        (GREEDY_TASK, {"do_sample": True}, "its temperature is 0; add temperature=1.0, or another"),
        (GREEDY_TASK, {"top_p": 0.5}, "its answers are not sampled; add do_sample=True,temperature=1.0"),
        (GREEDY_TASK, {"top_k": 5}, "its answers are not sampled"),
        (GREEDY_TASK, {"min_p": 0.1}, "its answers are not sampled"),
        (GREEDY_TASK, {"length_penalty": 2.0}, "it compares beams; add num_beams=2, or more"),
        (
            {**GREEDY_TASK, "top_p": 0},
            {"do_sample": True, "temperature": 2},
            "its top_p is 0, which leaves one token",
        ),
        (GREEDY_TASK, {"max_gen_toks": 5}, "no such setting; write max_new_tokens"),
        (GREEDY_TASK, {"stop": "x"}, "no such setting; write until"),
        (GREEDY_TASK, {"temprature": 1.0}, "no such setting; did you mean 'temperature'?"),
        (GREEDY_TASK, {"seed": 3}, "no such setting"),
        (GREEDY_TASK, {"max_new_tokens": 0}, "max_new_tokens=0 is not valid: write a whole number from 1"),
        (GREEDY_TASK, {"max_new_tokens": 2.5}, "write a whole number from 1"),
        (GREEDY_TASK, {"max_new_tokens": "many"}, "write a whole number from 1"),
        (GREEDY_TASK, {"num_beams": True}, "write a whole number from 1"),
        (GREEDY_TASK, {"do_sample": "yes"}, "write True or False"),
        (GREEDY_TASK, {"temperature": -1.0}, "write a number from 0"),
        (GREEDY_TASK, {"temperature": float("nan")}, "write a number from 0"),
        (GREEDY_TASK, {"top_p": 1.5}, "write a number from 0 to 1"),
        (GREEDY_TASK, {"repetition_penalty": 0}, "write a number above 0"),
    ],
)
def test_what_would_do_nothing_is_refused_in_one_line(
    task: dict[str, Any], given: dict[str, Any], says: str
) -> None:
    with pytest.raises(RunError) as error:
        check(task, given)
    assert says in str(error.value)
    assert "\n" not in str(error.value)
    assert next(iter(given)) in str(error.value)


@pytest.mark.parametrize(
    ("task", "given"),
    [
        (GREEDY_TASK, {}),
        (GREEDY_TASK, {"temperature": 0, "top_k": 0, "top_p": 0}),  # lmms-eval's own example
        (GREEDY_TASK, {"temperature": 0.0, "top_p": 0.9}),
        (GREEDY_TASK, {"top_p": 1.0}),
        (GREEDY_TASK, {"do_sample": False, "max_new_tokens": 7}),
        (GREEDY_TASK, {"do_sample": True, "temperature": 80, "top_k": 3}),
        (GREEDY_TASK, {"num_beams": 3, "length_penalty": 1}),
        (
            GREEDY_TASK,
            {"repetition_penalty": 2, "no_repeat_ngram_size": 2, "min_new_tokens": 2, "until": "x"},
        ),
        ({}, {"temperature": 80}),
        ({"do_sample": True}, {"top_p": 0.5}),
    ],
)
def test_what_does_something_is_taken(task: dict[str, Any], given: dict[str, Any]) -> None:
    check(task, given)
    arguments = generation_arguments({**task, **given})
    for name, value in given.items():
        if name in APPLIED and arguments["do_sample"]:
            assert arguments[name] == value


def test_whole_numbers_become_what_transformers_takes() -> None:
    arguments = generation_arguments(
        {"do_sample": True, "temperature": 80, "top_p": 1, "top_k": 5.0, "repetition_penalty": 2}
    )
    kinds = {name: type(arguments[name]) for name in ("temperature", "top_p", "top_k", "repetition_penalty")}
    assert kinds == {"temperature": float, "top_p": float, "top_k": int, "repetition_penalty": float}


def test_a_seed_is_a_part_of_what_a_sampled_answer_depends_on() -> None:
    sampled = {"temperature": 1.0}
    assert generation_key(sampled, 1) != generation_key(sampled, 2)
    assert generation_key(GREEDY_TASK, 1) == generation_key(GREEDY_TASK, 2) == GREEDY_TASK
