"""lmms-eval's generation settings as transformers takes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_PASSED_ON = (
    "max_new_tokens",
    "num_beams",
    "top_p",
    "top_k",
    "temperature",
    "repetition_penalty",
    "length_penalty",
)
DEFAULT_NEW_TOKENS = 128


def generation_arguments(gen_kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of `model.generate`; greedy unless a temperature or `do_sample` says otherwise."""
    arguments = {name: gen_kwargs[name] for name in _PASSED_ON if gen_kwargs.get(name) is not None}
    arguments.setdefault("max_new_tokens", DEFAULT_NEW_TOKENS)
    # A checkpoint's own settings may say otherwise, after a fine-tuning for example.
    arguments |= {"use_cache": True, "num_return_sequences": 1}
    temperature = float(arguments.get("temperature", 0) or 0)
    arguments["do_sample"] = bool(gen_kwargs.get("do_sample", temperature > 0)) and temperature > 0
    if not arguments["do_sample"]:
        for name in ("temperature", "top_p", "top_k"):
            arguments[name] = (
                None  # else the checkpoint's own settings make transformers warn at every sample
            )
    return arguments


def cut_at_stops(answer: str, gen_kwargs: Mapping[str, Any]) -> str:
    """The answer up to the first of the task's stop strings."""
    until = gen_kwargs.get("until") or ()
    for stop in (until,) if isinstance(until, str) else until:
        if stop:
            answer = answer.split(stop, 1)[0]
    return answer
