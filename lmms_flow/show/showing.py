"""What `lmms-flow show` and `lmms-flow flows` print: a flow on a known model's prompt, and the flows that are known."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import FlowError, nearest
from ..flow import (
    CONTROLS,
    PRESET_NAMES,
    PRESETS,
    BoundFlow,
    Flow,
    Layout,
    ResolvedFlow,
    find_preset,
    preset_of,
)
from ..flow.presets import UNVALIDATED
from ..terminal import UNBOUNDED, TextColumn, TextTable, make_console, print_tables, say

if TYPE_CHECKING:
    from rich.console import Console

    from ..engine.ledger import Ledger


@dataclass(frozen=True)
class Subject:
    """The model that a flow is shown for."""

    layers: int
    layout: Layout
    checkpoint: str | None  # whose pathway `effective` is


@dataclass(frozen=True)
class Shown:
    """A flow on a model's usual prompt. No torch has been imported for it."""

    flow: Flow
    subject: Subject
    resolved: ResolvedFlow

    @property
    def bound(self) -> BoundFlow:
        """The flow in the model's depth."""
        return self.resolved.bound

    def routes(self) -> tuple[str, ...]:
        """By which the video reaches the last token past the flow."""
        return tuple(map(str, self.flow.leaks(self.subject.layout, self.subject.layers)))

    def layers(self) -> list[tuple[str, str, float, tuple[int, ...]]]:
        """The layers that are cut alike: which, what is cut, the share of their edges that is kept, rows computed."""
        from ..engine import RowPlan
        from .drawing import layer_names

        plan, kept = RowPlan(self.resolved, undropped=1), self.resolved.kept_by_layer()
        triangle = self.resolved.kept_edges()[1] // self.subject.layers
        found = []
        for cuts, where in self.bound.distinct():
            nothing = "pairs drawn at random" if self.resolved.draws else "nothing"
            rows = tuple(count for count, _ in groupby(len(plan.rows(layer)) for layer in where))
            told = ", ".join(sorted(map(str, cuts))) or nothing
            found.append((layer_names(where), told, kept[where[0] - 1] / triangle, rows))
        return found

    def ledger(self) -> Ledger | None:
        """What a prefill costs; None for a model whose sizes are not known."""
        from ..engine.ledger import ledger_of
        from .costs import known_shape

        shape = known_shape(self.subject.checkpoint)
        if shape is None:
            return None
        vision = shape.vision.flops(len(self.subject.layout.frames))
        return ledger_of(shape.decoder, self.flow, self.subject.layout, "sparse", vision=vision)

    def draw(self, file: Path) -> Path:
        """Writes the masks as a picture."""
        from .drawing import draw_flow

        draw_flow(self.flow, self.subject.layout, self.subject.layers, file)
        return file


def shown(text: str, model: str | None) -> Shown:
    """Reads a flow for a known model. Raises FlowError.

    Whether a group is there, and how many frames, is known of each prompt alone: the error says of which prompt it
    speaks.
    """
    subject, flow = _subject_and_flow(text, model)
    bound = flow.bind(subject.layers)
    try:
        resolved = bound.resolve(subject.layout)
    except FlowError as error:
        layout = subject.layout
        of = f"of {subject.checkpoint}" if subject.checkpoint else "that show takes"
        raise FlowError(
            f"{error}. This is the usual prompt {of}, {len(layout.frames)} frames and {layout.num_tokens} tokens; in a "
            "run each question's own prompt decides, and --model takes another model's here"
        ) from None
    return Shown(flow, subject, resolved)


def as_json(one: Shown) -> dict[str, Any]:
    """What `show` prints, as plain values."""
    kept, total = one.resolved.kept_edges()
    ledger = one.ledger()
    return {
        "flow": one.flow.name,
        "text": one.flow.text,
        "digest": one.bound.digest,
        "checkpoint": one.subject.checkpoint,
        "layers": one.subject.layers,
        "tokens": one.subject.layout.num_tokens,
        "by_layer": [
            {"layers": names, "cut": cut, "edges_kept": share, "rows": rows}
            for names, cut, share, rows in one.layers()
        ],
        "edges_kept": kept,
        "edges_total": total,
        "empty": one.resolved.empty,
        "routes": one.routes(),
        "flops": ledger.flops if ledger else None,
        "flops_full": ledger.flops_full if ledger else None,
    }


def show(one: Shown, png: Path | None) -> None:
    """Prints what a flow cuts in which layers, what is left, and by which routes the video still reaches `last`."""
    console = make_console()
    layers, tokens = one.subject.layers, one.subject.layout.num_tokens
    kept, total = one.resolved.kept_edges()
    say(console, f"{one.flow.name}  (digest {one.bound.digest}, {layers} layers, {tokens} tokens)")
    lines = [
        (names, cut, f"{100 * share:.1f} %", ", then ".join(f"{count:,}" for count in rows))
        for names, cut, share, rows in one.layers()
    ]
    heads = ("layers", "cut in each of them", "edges\nkept", "rows\ncomputed")
    print_tables(console, [TextTable("", tuple(map(TextColumn, heads, zip(*lines, strict=True))))])
    share = f"{kept:,} of {total:,} ({100 * kept / total:.1f} %)"
    say(console, f"edges kept: {share}, of one head, over all layers")
    say(console, f"the unit of cross_frame is a frame: {len(one.subject.layout.frames)} of them here")
    for rule in one.resolved.empty:
        say(console, f"{rule} cuts nothing in this prompt: a group is empty")
    routes = one.routes()
    none = "no route past the flow leads from the video to the last token"
    say(console, "the video reaches the last token by:" if routes else none)
    for route in routes:
        say(console, f"  {route}")
    _print_costs(console, one)
    if png:
        say(console, f"drawn into {one.draw(png)}")


def _print_costs(console: Console, one: Shown) -> None:
    """FLOPs and bytes of a prefill on a model whose sizes are known."""
    from .costs import cost_table, flops

    ledger = one.ledger()
    if ledger is None:
        say(console, "FLOPs need a known model: --model with a preset, a checkpoint of one or flow-tiny")
        return
    say(console, "")
    print_tables(console, [cost_table(ledger, one.flow.name)])
    say(
        console,
        "attention is counted by the shapes of the kernels that run; the kept edges alone are "
        f"{flops(ledger.flow.attention_by_edges)} of {flops(ledger.full.attention_by_edges)}",
    )
    if one.flow.needs_masks:
        say(
            console,
            f"if cut edges cost nothing at all, the decoder would need {ledger.bound:.2f} times fewer FLOPs than it "
            "needs without a flow",
        )


def _subject_and_flow(text: str, model: str | None) -> tuple[Subject, Flow]:
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
        return Subject(flow.layers, PRESETS[0].layout(), None), flow
    return subject, flow


def _subject(model: str) -> Subject:
    found = find_preset(model)
    preset = found[0] if found else preset_of(model)
    if preset:
        return Subject(preset.layers, preset.layout(), preset.checkpoints[0])
    if re.fullmatch("[1-9][0-9]{0,2}", model):
        return Subject(int(model), PRESETS[0].layout(), None)
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
    console = make_console()
    controls = [control for control in CONTROLS if control.is_flow]
    columns = (
        TextColumn("control", tuple(control.written for control in controls)),
        TextColumn("what it is", tuple(control.meaning for control in controls)),
    )
    print_tables(console, [_pathways(marked=console.width < UNBOUNDED)], "lmms-flow flows | cat prints them")
    for preset in PRESETS:
        say(console, f"{preset.name}: {', '.join(preset.checkpoints)}")
    say(console, "effective and effective_closed stand for the pathway of the checkpoint that is run.")
    say(console, "")
    print_tables(console, [TextTable("controls", columns)])


def _pathways(marked: bool) -> TextTable:
    """The presets; `marked` puts a star behind those of which no column says that nobody has scored them."""
    rows = []
    for name in PRESET_NAMES:
        found = find_preset(name)
        assert found is not None
        preset, closed = found
        kept, total = Flow.load(name).kept_edges(preset.layout(), preset.layers)
        ranges = (preset.cross_frame, preset.video_question, preset.question_last)
        scored = preset.scored_by(closed)
        star = " *" if marked and UNVALIDATED in scored else ""
        rows.append((name + star, str(preset.layers), *ranges, f"{100 * kept / total:.1f} %", scored))
    heads = (
        "preset",
        "layers",
        "cross_\nframe",
        "video:\nquestion",
        "question:\nlast",
        "edges\nkept",
        "scored by",
    )
    columns = [TextColumn(head, cells) for head, cells in zip(heads, zip(*rows, strict=True), strict=True)]
    columns[1] = replace(columns[1], brief_head="depth")
    columns[-1] = replace(columns[-1], rank=1)
    notes = (f"* {UNVALIDATED}: nobody has scored it on its checkpoint yet",) if marked else ()
    return TextTable("pathways, and the layers in which each keeps its edges", tuple(columns), notes)
