"""`Flow`: what is cut, read from text, and what can be asked of it."""

from __future__ import annotations

import os
from contextlib import nullcontext
from dataclasses import fields

from ..errors import FlowError
from .files import load
from .layout import Layout
from .leaks import leaks
from .own_groups import known
from .resolve import BoundFlow, bind
from .routes import Route
from .spec import FlowSpec

USUAL_DEPTH = 32  # layers of a model for which a flow is drawn that names no depth


class Flow(FlowSpec):
    """A named set of attention edges to cut, for a model of any depth and any prompt.

    `Flow.load` reads the one-line language, a preset's name or a YAML file.
    """

    @staticmethod
    def load(
        text: str | os.PathLike[str], *, checkpoint: str | None = None, layout: Layout | None = None
    ) -> Flow:
        """Reads a flow.

        Args:
            text: the one-line language, a preset's name, or a path that ends in .yaml or .yml.
            checkpoint: repository id or folder of the model, whose own pathway `effective` stands for.
            layout: whose own groups (`Layout.own`) may be named in it.

        Raises:
            FlowError: the text is no flow, or no pathway is known for the checkpoint; one line.
        """
        with known(layout.own) if layout is not None else nullcontext():
            spec = load(text, checkpoint)
        return Flow(**{field.name: getattr(spec, field.name) for field in fields(spec)})

    def _repr_html_(self) -> str:
        """The strip of its layers; of a flow that names no depth, in a model of 32 layers, and it says so."""
        depth = self.layers or USUAL_DEPTH
        note = f"drawn for a model of {depth} layers: flow.bind(layers) is for another"
        try:
            return self.bind(depth).html(() if self.layers else (note,))
        except FlowError:  # it names a layer that this depth has not
            from ..notebook import table

            return table(("rule",), ((str(rule),) for rule in self.rules), f"flow {self.name}")

    def bind(self, num_layers: int) -> BoundFlow:
        """The flow in a model of `num_layers` layers. Raises FlowError for another depth or a layer out of range."""
        try:
            return bind(self, num_layers)
        except FlowError as error:
            where = "" if self.text in str(error) else f"flow {self.text!r}: "
            raise FlowError(f"{where}{error}") from None

    def kept_edges(self, layout: Layout, num_layers: int) -> tuple[int, int]:
        """(kept, total) attention edges of one head, summed over layers, in closed form (paper, Table 3).

        An edge is a pair (query, key) with the key at or before the query.
        """
        return self.bind(num_layers).resolve(layout).kept_edges()

    def leaks(self, layout: Layout, num_layers: int) -> tuple[Route, ...]:
        """The routes by which video still reaches `last` past the flow, the shortest through each relaying group.

        A pathway's own way, video to question to `last` inside its ranges of layers, is no leak.
        """
        return leaks(self.bind(num_layers).resolve(layout))
