"""The flags of lmms-eval that reach a model: each is applied or refused in one line, none is dropped.

lmms-eval hands its models few of its flags; the others are read off the evaluation that asks. docs/host-flags.md has
the whole table.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lmms_flow.errors import RunError
from lmms_flow.harness import host

DEFAULT_SEED = 1234  # of torch, where --seed says nothing

# What a flag's value is where it was not given -> why it can't be applied, and what to do.
REFUSED: Mapping[str, tuple[tuple[Any, ...], str]] = {
    "num_fewshot": (
        (None, 0),
        "--num_fewshot: chat models are asked by a task's messages, which hold no examples; leave it out",
    ),
    "system_instruction": (
        (None, ""),
        "--system_instruction: it is no part of a task's messages, and would change the group `system` of every "
        "prompt; write it into the checkpoint's chat template",
    ),
    "apply_chat_template": (
        (False, None),
        "--apply_chat_template: a checkpoint's chat template is always applied; leave it out",
    ),
    "fewshot_as_multiturn": (
        (False, None),
        "--fewshot_as_multiturn: chat models are asked by a task's messages, which hold no examples; leave it out",
    ),
    "cache_requests": (
        (False, None),
        "--cache_requests: the requests that it keeps have no messages, so no video could be asked about; leave it out",
    ),
    "delete_requests_cache": (
        (False, None),
        "--cache_requests: lmms-eval deletes nothing at `delete`, and these models use no such cache; leave it out",
    ),
    "force_simple": ((False, None), "--force_simple: these are chat models only; leave it out"),
    "max_tokens": (
        (None,),
        "--max_tokens: these models don't count tokens for lmms-eval, so the budget would never end; use --limit",
    ),
}


@dataclass(frozen=True)
class Flags:
    """What a run was asked for that a model has to know."""

    gen_kwargs: Mapping[str, Any] = field(default_factory=dict)  # of the command line alone
    seed: int = DEFAULT_SEED  # of sampled answers


def read_flags() -> Flags:
    """The flags of the evaluation that this call came from; those of no flag where there is none.

    Raises RunError for one that can't be applied.
    """
    asked = host.evaluation()
    if asked is None:
        return Flags()
    for name, (unset, line) in REFUSED.items():
        if asked.get(name) not in unset:
            raise RunError(line)
    gen_kwargs, seed = asked["gen_kwargs"], asked["torch_random_seed"]
    if isinstance(gen_kwargs, str):  # not read yet
        gen_kwargs = host.PARSE_STRING.take()(gen_kwargs)
    return Flags(
        gen_kwargs=dict(gen_kwargs or {}),
        seed=secrets.randbits(60) if seed is None else int(seed),  # None: other answers each time
    )
