"""Every flag of the installed lmms-eval: applied, refused in one line, or said to be the host's alone."""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from lmms_eval.evaluator import request_caching_arg_to_dict, simple_evaluate
from lmms_eval.tasks import TaskManager

import lmms_flow
from lmms_flow.errors import RunError
from lmms_flow.harness import host, plugin
from lmms_flow.harness.host_flags import DEFAULT_SEED, REFUSED, read_flags

DOCS = Path(lmms_flow.__file__).parent.parent / "docs/host-flags.md"
OURS = "llava_vid_flow"
TASK = "flowbench_object_count"
KINDS = {"applied", "refused", "host's alone"}


def flags_of_the_host() -> set[str]:
    """The first long spelling of each argument, from the parser itself."""
    with mock.patch.object(sys, "argv", ["lmms-eval"]):
        parser: argparse.ArgumentParser = host.PARSE_ARGS.take()()[0]
    return {
        next(one for one in action.option_strings if one.startswith("--"))
        for action in parser._actions
        if action.option_strings
    }


def table() -> dict[str, str]:
    """Flag -> what becomes of it, from the documentation."""
    rows = re.findall(r"^\| `(--[\w-]+)`[^|]*\| ([^|]+?) \|", DOCS.read_text(encoding="utf-8"), re.M)
    assert len(rows) == len({flag for flag, _ in rows})
    return dict(rows)


@pytest.mark.skipif(not DOCS.exists(), reason="an installed package has no docs")
def test_the_table_names_every_flag_of_the_installed_host() -> None:
    assert set(table()) == flags_of_the_host()
    assert set(table().values()) == KINDS


@pytest.mark.skipif(not DOCS.exists(), reason="an installed package has no docs")
def test_the_table_says_refused_where_the_code_refuses() -> None:
    refused = {flag.strip("-") for flag, kind in table().items() if kind == "refused"}
    assert refused == {flag_of(name) for name in REFUSED} | {"max_batch_size"}


def flag_of(parameter: str) -> str:
    """As its line says: one flag may be several parameters inside."""
    return REFUSED[parameter][1].partition(":")[0].strip("-")


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plugin.make_tasks_known()
    monkeypatch.chdir(tmp_path)


def evaluate(**asked: Any) -> list[dict[str, Any]]:
    """The records of a run."""
    return [dict(sample["record"]) for sample in samples_of(**asked)]


def samples_of(limit: int = 2, **asked: Any) -> list[dict[str, Any]]:
    out = simple_evaluate(
        model=OURS,
        model_args="pretrained=flow-tiny,device=cpu,records=none",
        tasks=[TASK],
        limit=limit,
        task_manager=TaskManager(include_defaults=False, model_name=OURS),
        **asked,
    )
    (samples,) = out["samples"].values()
    return list(samples)


REFUSALS = {
    "num_fewshot": 2,
    "system_instruction": "Be brief.",
    "apply_chat_template": True,
    "fewshot_as_multiturn": True,
    "cache_requests": True,
    "delete_requests_cache": True,
    "force_simple": True,
    "max_tokens": 100,
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_can_not_be_applied_is_one_line_before_the_model_is_loaded(name: str) -> None:
    with (
        pytest.raises(RunError, match=f"--{flag_of(name)}: .*; ") as error,
        mock.patch("lmms_flow.model_wrappers.base.FlowModel._place") as place,
    ):
        evaluate(**{name: REFUSALS[name]})
    assert "\n" not in str(error.value)
    place.assert_not_called()


@pytest.mark.parametrize("how", ["true", "refresh", "delete"])
def test_each_way_of_keeping_requests_is_refused(how: str) -> None:
    """As the command line hands them on."""
    with pytest.raises(RunError, match="--cache_requests: .*; leave it out"):
        evaluate(**request_caching_arg_to_dict(how))


def test_the_largest_batch_belongs_to_batches_that_are_tried_out() -> None:
    with pytest.raises(RunError, match="--max_batch_size belongs to --batch_size auto"):
        evaluate(max_batch_size=4)
    with pytest.raises(RunError, match="batch_size=auto: write a whole number from 1"):
        evaluate(batch_size="auto")


def test_without_an_evaluation_nothing_was_asked() -> None:
    assert read_flags().gen_kwargs == {}
    assert read_flags().seed == DEFAULT_SEED


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (
            "temperature=80",
            "temperature=80 does nothing in task flowbench_object_count: it says do_sample=False",
        ),
        ("temperature=80.0,max_new_tokens=2", "add do_sample=True"),
        ("do_sample=True", "add temperature=1.0"),
        ("max_gen_toks=3", "write max_new_tokens"),
        ("max_new_tokens=none", "write a whole number from 1"),
    ],
)
def test_generation_settings_that_would_do_nothing(given: str, says: str) -> None:
    with pytest.raises(RunError, match=re.escape(says)):
        evaluate(gen_kwargs=given)


@pytest.mark.host
def test_sampled_answers_follow_the_run_s_seed() -> None:
    """An int where transformers wants a float, and --seed: the answers are the seed's."""
    sampled = {"gen_kwargs": "do_sample=True,temperature=80,max_new_tokens=3", "limit": 3}

    def said(**seed: Any) -> list[str]:
        return [record["answer"] for record in evaluate(**sampled, **seed)]

    first = said()
    assert said(torch_random_seed=DEFAULT_SEED) == first
    assert said(torch_random_seed=7) == said(torch_random_seed=7) != first
    assert said(torch_random_seed=None) != said(torch_random_seed=None), "no seed: other answers each time"


def test_repeats_are_asked_again_and_scored() -> None:
    records = evaluate(repeats=2)
    assert [record["status"] for record in records] == ["ok", "ok"]


def test_answers_alone() -> None:
    samples = samples_of(predict_only=True)
    assert len(samples) == 2
    for sample in samples:
        assert '\\"status\\": \\"ok\\"' in json.dumps(sample["resps"]), "the record is beside the answer"
        assert "accuracy" not in sample
