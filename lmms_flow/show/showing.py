"""What `lmms-flow show` and `lmms-flow flows` print: a flow on a known model's prompt, and the flows that are known."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from ..errors import FlowError, nearest
from ..flow import CONTROLS, PRESET_NAMES, PRESETS, Flow, Layout, find_preset, preset_of


def make_console() -> Any:
    """A console that lets no table shrink below what it says, and takes names as they are: "[v2]" is no markup."""
    from rich.console import Console

    console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
    console.width = max(console.width, 140)
    return console


def show(text: str, model: str | None, png: Path | None) -> None:
    """Prints what a flow cuts in which layers, what is left, and by which routes the video still reaches `last`."""
    from rich.table import Table

    from ..engine import RowPlan
    from .drawing import draw_flow, layer_names

    subject, flow = _subject_and_flow(text, model)
    layers, layout = subject.layers, subject.layout
    bound = flow.bind(layers)
    resolved = bound.resolve(layout)
    kept, total = resolved.kept_edges()
    console = make_console()
    console.print(f"{flow.name}  (digest {bound.digest}, {layers} layers, {layout.num_tokens} tokens)")
    by_layer = resolved.kept_by_layer()
    triangle = total // layers
    plan = RowPlan(resolved, undropped=1)
    table = Table("layers", "cut in each of them", "edges kept", "rows computed")
    for cuts, where in bound.distinct():
        names = ", ".join(sorted(map(str, cuts))) or (
            "pairs drawn at random" if resolved.draws else "nothing"
        )
        rows = ", then ".join(f"{count:,}" for count, _ in groupby(len(plan.rows(layer)) for layer in where))
        table.add_row(layer_names(where), names, f"{100 * by_layer[where[0] - 1] / triangle:.1f} %", rows)
    console.print(table)
    console.print(
        f"edges kept: {kept:,} of {total:,} ({100 * kept / total:.1f} %), of one head, over all layers"
    )
    console.print(f"the unit of cross_frame is a frame: {len(layout.frames)} of them here")
    for rule in resolved.empty:
        console.print(f"{rule} cuts nothing in this prompt: a group is empty")
    routes = flow.leaks(layout, layers)
    console.print(
        "the video reaches the last token by:"
        if routes
        else "no route past the flow leads from the video to the last token"
    )
    for route in routes:
        console.print(f"  {route}")
    _print_costs(console, subject, flow)
    if png:
        console.print(f"drawn into {draw_flow(flow, layout, layers, png)}")


def _print_costs(console: Any, subject: _Subject, flow: Flow) -> None:
    """FLOPs and bytes of a prefill on a model whose sizes are known."""
    from ..engine.ledger import ledger_of
    from .costs import cost_table, flops, known_shape

    shape = known_shape(subject.checkpoint)
    if shape is None:
        console.print("FLOPs need a known model: --model with a preset, a checkpoint of one or flow-tiny")
        return
    vision = shape.vision.flops(len(subject.layout.frames))
    ledger = ledger_of(shape.decoder, flow, subject.layout, "sparse", vision=vision)
    console.print(cost_table(ledger, flow.name))
    console.print(
        "attention is counted by the shapes of the kernels that run; the kept edges alone are "
        f"{flops(ledger.flow.attention_by_edges)} of {flops(ledger.full.attention_by_edges)}"
    )
    if flow.needs_masks:
        console.print(
            f"if cut edges cost nothing at all, the decoder would need {ledger.bound:.2f} times fewer FLOPs than it "
            "needs without a flow"
        )


@dataclass(frozen=True)
class _Subject:
    """The model that a flow is shown for."""

    layers: int
    layout: Layout
    checkpoint: str | None  # whose pathway `effective` is


def _subject_and_flow(text: str, model: str | None) -> tuple[_Subject, Flow]:
    """Whose depth and prompt are meant, and the flow for that checkpoint."""
    if model is not None:
        subject = _subject(model)
        return subject, Flow.load(text, checkpoint=subject.checkpoint)
    word = next((word for word in text.replace("+", ":").split(":") if find_preset(word)), PRESETS[0].name)
    subject = _subject(word)
    flow = Flow.load(text, checkpoint=subject.checkpoint)
    if flow.random and flow.random.like:
        return _subject(flow.random.like), flow
    if flow.layers is not None and flow.layers != subject.layers:  # a file that says how deep its model is
        return _Subject(flow.layers, PRESETS[0].layout(), None), flow
    return subject, flow


def _subject(model: str) -> _Subject:
    found = find_preset(model)
    preset = found[0] if found else preset_of(model)
    if preset:
        return _Subject(preset.layers, preset.layout(), preset.checkpoints[0])
    if re.fullmatch("[1-9][0-9]{0,2}", model):
        return _Subject(int(model), PRESETS[0].layout(), None)
    names = [
        *(preset.name for preset in PRESETS),
        *(known for preset in PRESETS for known in preset.checkpoints),
    ]
    raise FlowError(
        f"--model {model!r} is neither a preset, a checkpoint of one nor a number of layers such as 24"
        f"{nearest(model, names)} (presets: {', '.join(names[: len(PRESETS)])})"
    )


def list_flows() -> None:
    """Prints the known pathways and the controls."""
    from rich.table import Table

    console = make_console()
    table = Table(
        "preset",
        "layers",
        "cross_frame",
        "video:question",
        "question:last",
        "edges kept",
        "scored by",
        title="pathways",
    )
    for name in PRESET_NAMES:
        found = find_preset(name)
        assert found is not None
        preset, closed = found
        kept, total = Flow.load(name).kept_edges(preset.layout(), preset.layers)
        ranges = (preset.cross_frame, preset.video_question, preset.question_last)
        table.add_row(
            name, str(preset.layers), *ranges, f"{100 * kept / total:.1f} %", preset.scored_by(closed)
        )
    console.print(table)
    for preset in PRESETS:
        console.print(f"{preset.name}: {', '.join(preset.checkpoints)}")
    console.print("effective and effective_closed stand for the pathway of the checkpoint that is run.")
    listed = Table("control", "what it is", title="controls")
    for control in CONTROLS:
        if control.is_flow:
            listed.add_row(control.written, control.meaning)
    console.print(listed)
