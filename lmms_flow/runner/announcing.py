"""What a run of a loaded model says before its first question and after its last, whatever the verbosity."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lmms_flow.engine import Check
from lmms_flow.harness import host
from lmms_flow.harness.sample import traced
from lmms_flow.harness.telling import asked_for, what_next
from lmms_flow.records.journal import Journal

from .loaded import LoadedModel

# The checks whose figures are told, by what their names end with.
TOLD = ("a cut changes the answer", "another video is not seen", "sparse engine equals the reference")


def about_the_run(
    loaded: LoadedModel, checks: Sequence[Check], requests: Sequence[Any], journal: Journal | None
) -> list[str]:
    """Checkpoint, device, questions, flows, frames, the self-check in numbers, the records.

    Args:
        loaded: the model.
        checks: of its self-check; none where no flow asked for one.
        requests: of lmms-eval.
        journal: where answers are kept; None keeps none.
    """
    args, flow = loaded.args, loaded.flows.own
    runs = f"{str(loaded.dtype).removeprefix('torch.')} on {loaded.device}"
    lines = [
        f"{loaded.checkpoint}, {flow.bound.num_layers} layers, {runs}, {args.attn_implementation} attention, engine "
        f"{args.engine}",
        *asked_for(requests, flow.flow.text),
        f"{args.num_frames} frames a video where the task does not say, on_error={args.on_error}",
        _self_check(checks),
    ]
    if journal is None:
        return [*lines, "no answer is kept (records=none)"]
    held = journal.held({host.arguments_of(one).task for one in requests if not host.is_padding(one)})
    know = (
        f"they hold {held:,} answers to these tasks, taken where nothing has changed"
        if held
        else "empty for these tasks"
    )
    return [*lines, f"records in {journal.folder}: {know}"]


def _self_check(checks: Sequence[Check]) -> str:
    if not checks:
        return "no self-check: nothing is cut"
    told = [
        f"{one.name.partition(': ')[2]} {one.detail}"
        for one in checks
        if one.name.startswith("prefill: ") and one.name.endswith(TOLD)
    ]
    return f"self-check: {len(checks)} checks passed; {'; '.join(told)}"


def after_the_run(requests: Sequence[Any]) -> list[str]:
    """The next command."""
    following = what_next(host.evaluation(), any(traced(one.metadata) for one in requests))
    return [following] if following else []
