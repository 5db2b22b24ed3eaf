"""lmms-eval's generation settings as transformers takes them: each is applied, or refused in one line."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from loguru import logger

from lmms_flow.errors import RunError, nearest
from lmms_flow.harness import host

DEFAULT_NEW_TOKENS = 128


def _whole(least: int) -> Callable[[Any], int]:
    def read(value: Any) -> int:
        if isinstance(value, bool) or int(value) != float(value) or int(value) < least:
            raise ValueError(f"a whole number from {least}")
        return int(value)

    read.__doc__ = f"a whole number from {least}"
    return read


def _number(least: float, most: float = float("inf"), *, open_ended: bool = False) -> Callable[[Any], float]:
    what = f"a number {'above' if open_ended else 'from'} {least:g}" + (
        "" if most == float("inf") else f" to {most:g}"
    )

    def read(value: Any) -> float:
        number = float(value)
        if isinstance(value, bool) or not least <= number <= most or (open_ended and number == least):
            raise ValueError(what)
        return number

    read.__doc__ = what
    return read


def _truth(value: Any) -> bool:
    """True or False"""  # noqa: D415  a part of the error
    if not isinstance(value, bool):
        raise ValueError
    return value


# What is handed on to `model.generate`, and how its value is read.
APPLIED: Mapping[str, Callable[[Any], Any]] = {
    "max_new_tokens": _whole(1),
    "min_new_tokens": _whole(0),
    "num_beams": _whole(1),
    "do_sample": _truth,
    "temperature": _number(0),
    "top_p": _number(0, 1),
    "top_k": _whole(0),
    "min_p": _number(0, 1),
    "typical_p": _number(0, 1),
    "repetition_penalty": _number(0, open_ended=True),
    "length_penalty": _number(-float("inf")),
    "no_repeat_ngram_size": _whole(0),
}
# Only choose among what is sampled, and the value at which each chooses nothing.
SAMPLING = {"top_p": 1.0, "top_k": 0, "min_p": 0.0, "typical_p": 1.0}
SPELLINGS = {"max_gen_toks": "max_new_tokens", "max_tokens": "max_new_tokens", "stop": "until"}


def generation_arguments(gen_kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of `model.generate`; greedy unless a temperature or `do_sample` says otherwise.

    Raises RunError for a value that is none.
    """
    arguments = {name: _read(name, gen_kwargs[name]) for name in APPLIED if gen_kwargs.get(name) is not None}
    arguments.setdefault("max_new_tokens", DEFAULT_NEW_TOKENS)
    # A checkpoint's own settings may say otherwise, after a fine-tuning for example.
    arguments.setdefault("num_beams", 1)
    arguments |= {"use_cache": True, "num_return_sequences": 1}
    arguments["do_sample"] = _samples(arguments)
    if arguments["do_sample"]:
        arguments.setdefault("temperature", 1.0)
    else:
        # Else the checkpoint's own settings make transformers warn at every sample.
        arguments |= dict.fromkeys(("temperature", "top_p", "top_k"))
        for name in ("min_p", "typical_p"):
            arguments.pop(name, None)
    return arguments


def _samples(arguments: Mapping[str, Any]) -> bool:
    """Temperature 0 is greedy, whatever `do_sample` says."""
    temperature = arguments.get("temperature")
    if temperature is None:
        return bool(arguments.get("do_sample", False))
    return bool(arguments.get("do_sample", temperature > 0)) and temperature > 0


def _read(name: str, value: Any) -> Any:
    read = APPLIED[name]
    try:
        return read(value)
    except (TypeError, ValueError, OverflowError):
        raise RunError(
            f"the generation setting {name}={value!r} is not valid: write {read.__doc__}"
        ) from None


def generation_key(gen_kwargs: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """What of the settings an answer depends on: a sampled one on the run's seed as well."""
    return {**gen_kwargs, "seed": seed} if generation_arguments(gen_kwargs)["do_sample"] else dict(gen_kwargs)


def check_generation(requests: Sequence[Any], given: Mapping[str, Any]) -> None:
    """Looks at the settings of all requests before the first is answered.

    Args:
        requests: of lmms-eval, all that it will ask.
        given: those of the command line (`--gen_kwargs`), which are also among the requests'.

    Raises:
        RunError: one of the command line's would do nothing, or a value is none.
    """
    for name in given:
        if name not in APPLIED and name != "until":
            near = f"; write {SPELLINGS[name]}" if name in SPELLINGS else nearest(name, APPLIED)
            raise RunError(
                f"--gen_kwargs {name}: these models have no such setting{near} ({', '.join(APPLIED)}, until)"
            )
    seen: list[tuple[str, dict[str, Any]]] = []
    for request in requests:
        asked = host.arguments_of(request)
        settings = dict(asked.gen_kwargs)
        if (asked.task, settings) in seen:
            continue
        seen.append((asked.task, settings))
        arguments = generation_arguments(settings)
        for name in given:
            if line := _idle(name, given, settings, arguments):
                raise RunError(f"--gen_kwargs {name}={given[name]} does nothing in task {asked.task}: {line}")
        others = [name for name in settings if name not in APPLIED and name != "until"]
        if others:
            logger.warning(f"task {asked.task} has generation settings of other models: {', '.join(others)}")


def _idle(
    name: str, given: Mapping[str, Any], settings: Mapping[str, Any], arguments: Mapping[str, Any]
) -> str:
    """Why a setting of the command line changes nothing, and what to write; empty where it does or needs not."""
    greedy = not arguments["do_sample"]
    if name == "temperature" and greedy and float(given[name]) > 0:
        return f"it says do_sample={settings.get('do_sample')}; add do_sample=True"
    if name == "do_sample" and given[name] and greedy:
        return f"its temperature is {settings.get('temperature')}; add temperature=1.0, or another"
    if name in ("temperature", "do_sample") and not greedy:
        for other, leaves_one in (("top_p", 0), ("top_k", 1)):
            if arguments.get(other) == leaves_one:
                return f"its {other} is {leaves_one}, which leaves one token; add {other}={SAMPLING[other]}"
    meant_greedy = given.get("do_sample") is False or given.get("temperature") == 0
    if name in SAMPLING and greedy and not meant_greedy and given[name] not in (0, SAMPLING[name]):
        return "its answers are not sampled; add do_sample=True,temperature=1.0"
    if name == "length_penalty" and arguments.get("num_beams", 1) == 1:
        return "it compares beams; add num_beams=2, or more"
    return ""


def cut_at_stops(answer: str, gen_kwargs: Mapping[str, Any]) -> str:
    """The answer up to the first of the task's stop strings."""
    until = gen_kwargs.get("until") or ()
    for stop in (until,) if isinstance(until, str) else until:
        if stop:
            answer = answer.split(str(stop), 1)[0]
    return answer
