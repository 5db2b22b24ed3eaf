"""Whether two arms were asked the same: prompts, frames and data, question by question."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import ReportError
from .arms import Arm, ScoredSample, arm_names, baseline_of


def check_agreement(arms: Sequence[Arm], *, allow_differences: bool = False) -> list[str]:
    """Notes on arms that differ in what they were asked; raises ReportError at the first unless that is allowed.

    Each arm is held against its baseline, and against the first arm of all, which may be another model's: then only
    the data must agree, since every model family has prompts of its own.
    """
    names = dict(zip(map(id, arms), arm_names(arms), strict=True))
    notes = []
    for arm in arms:
        baseline = baseline_of(arm, arms) or arms[0]
        for other in (baseline, arms[0]) if baseline is not arms[0] else (baseline,):
            found = _differing(arm, other)
            if not found:
                continue
            (task, doc_id), what = next(iter(found.items()))
            two = f"{names[id(arm)]!r} and {names[id(other)]!r} differ in their {what}"
            if not allow_differences:
                raise ReportError(
                    f"{task}, document {doc_id}: {two} ({len(found)} questions do); compare runs that were asked the "
                    "same, or pass --allow-differences"
                )
            notes.append(f"{two} in {len(found)} questions, first in {task}, document {doc_id}")
    return notes


def _differing(arm: Arm, other: Arm) -> dict[tuple[str, int], str]:
    """Which common questions differ, and in what."""
    same_model = (arm.checkpoint, arm.protocol) == (other.checkpoint, other.protocol)
    same_number = arm.frames == other.frames  # a single frame is meant to differ in them
    same_order = arm.frame_order == other.frame_order
    found = {}
    for key, sample in arm.samples.items():
        beside = other.samples.get(key)
        if beside is not None and sample.correct is not None and beside.correct is not None:
            what = _difference(sample, beside, same_model, same_number, same_order)
            if what:
                found[key] = what
    return found


def _difference(
    sample: ScoredSample, other: ScoredSample, same_model: bool, same_number: bool, same_order: bool
) -> str:
    """One word for it; what either of the two has not written down is no difference."""
    if _differ(sample.data_digest, other.data_digest) or _differ(sample.target, other.target):
        return "data"
    if same_model and _differ(sample.question, other.question):
        return "prompts"
    if same_model and same_number:
        if _differ(sample.prompt_digest, other.prompt_digest):
            return "prompts"
        if _differ(sample.frames, other.frames) and (same_order or not _among(sample.frames, other.frames)):
            return "frames"
    return ""


def _among(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    """Whether one shows frames of the other alone, in whatever order: a frozen clip shows a single one of them."""
    return set(one) <= set(other) or set(other) <= set(one)


def _differ(one: object, other: object) -> bool:
    return bool(one) and bool(other) and one != other
