"""`Flow`: what is cut, read from text, and what can be asked of it."""

from __future__ import annotations

import os
from dataclasses import fields

from ..errors import FlowError
from .files import load
from .layout import Layout
from .leaks import Route, leaks
from .resolve import BoundFlow, bind
from .spec import FlowSpec


class Flow(FlowSpec):
    """A named set of attention edges to cut, for a model of any depth and any prompt.

    `Flow.load` reads the one-line language, a preset's name or a YAML file.
    """

    @staticmethod
    def load(text: str | os.PathLike[str], *, checkpoint: str | None = None) -> Flow:
        """Reads a flow. `checkpoint` says whose pathway `effective` is. Raises FlowError with one line."""
        spec = load(text, checkpoint)
        return Flow(**{field.name: getattr(spec, field.name) for field in fields(spec)})

    def bind(self, num_layers: int) -> BoundFlow:
        """The flow in a model of `num_layers` layers. Raises FlowError for another depth or a layer out of range."""
        try:
            return bind(self, num_layers)
        except FlowError as error:
            where = "" if self.text in str(error) else f"flow {self.text!r}: "
            raise FlowError(f"{where}{error}") from None

    def kept_edges(self, layout: Layout, num_layers: int) -> tuple[int, int]:
        """(kept, total) attention edges of one head, summed over layers, in closed form (paper, Table 3)."""
        return self.bind(num_layers).resolve(layout).kept_edges()

    def leaks(self, layout: Layout, num_layers: int) -> tuple[Route, ...]:
        """The routes by which video still reaches `last` past the flow, the shortest through each relaying group."""
        return leaks(self.bind(num_layers).resolve(layout))
