"""All checks, one after another."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from loguru import logger

from lmms_flow import assets
from lmms_flow.engine import self_check
from lmms_flow.errors import UserError

from . import inputs, running
from .case import Case
from .findings import FailedError, Finding, NotTriedError

CHECKS: Mapping[str, Callable[[Case], str]] = {
    "token ids are the processor's own": inputs.token_ids,
    "pixels, grids and seconds are the processor's own": inputs.beside_the_tokens,
    "no time is made up": inputs.times,
    "groups partition the prompt and hold their text": inputs.groups,
    "frames are where their pixels go": inputs.frame_borders,
    "flow=none answers as the plain model": running.answers,
    "a cut changes the answer": running.cut,
    "what is cut off is not seen": running.noise,
    "sparse equals dense": running.engines,
    "edges are those of the masks": running.edges,
    "a sweep equals a loop": running.swept,
    "a batch equals its questions": running.batched,
    "decoding": running.decoding,
    "saved and loaded in bfloat16": running.saved_in_bf16,
}


def conformance(wrapper: Any, clip: str | Path | None = None, only: Sequence[str] = ()) -> list[Finding]:
    """Tries a wrapper on a question about a clip.

    Args:
        wrapper: a loaded `FlowModel`, of this package or of another.
        clip: a video file; by default one that comes with this package.
        only: names of CHECKS; all of them by default.

    Returns:
        What was found, in order: the engine's self-check on made-up tokens first, then CHECKS.
    """
    case = Case(wrapper, str(clip or default_clip()))
    found = []
    if not only:
        found += [
            Finding(f"self-check, {check.name}", check.passed, check.detail)
            for check in self_check(wrapper.model, engine=wrapper.args.engine)
        ]
    for name, check in CHECKS.items():
        if not only or name in only:
            found.append(_tried(name, check, case))
    return found


def assert_conforms(wrapper: Any, clip: str | Path | None = None) -> list[Finding]:
    """The same for a test. Raises AssertionError with what failed."""
    found = conformance(wrapper, clip)
    failed = [f"{one.name}: {one.detail}" for one in found if one.passed is False]
    if failed:
        raise AssertionError("the wrapper does not conform:\n" + "\n".join(failed))
    return found


def default_clip() -> Path:
    """A clip of the bundled benchmark."""
    return min((assets.flowbench_dir() / "clips").glob("moving_direction-*.mp4"))


def _tried(name: str, check: Callable[[Case], str], case: Case) -> Finding:
    try:
        return Finding(name, True, check(case))
    except NotTriedError as why:
        return Finding(name, None, str(why))
    except (FailedError, UserError) as error:
        return Finding(name, False, str(error))
    except Exception as error:  # a wrapper that breaks does not conform
        logger.debug(traceback.format_exc())
        line = (str(error).splitlines() or [""])[0]
        return Finding(name, False, f"{type(error).__name__}: {line}")
