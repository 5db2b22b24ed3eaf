"""What may stand where a flow is asked for in code: a flow, its text, a knockout, a rule, or a list of these."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from ..errors import FlowError
from .files import is_file
from .flow import Flow
from .knockout import Knockout, Rule
from .layout import Layout
from .own_groups import known

Given: TypeAlias = Flow | Knockout | Rule | str | Sequence["Flow | Knockout | Rule | str"]


def as_flow(given: Given, layout: Layout | None = None) -> Flow:
    """The flow that is meant; of a list, the cuts of all of them joined.

    Args:
        given: a flow, its text, a knockout such as `Knockout("video", "last")`, a rule, or a list of these.
        layout: whose own groups may be named.

    Raises:
        FlowError: it is none of these, or can't be joined.
    """
    if isinstance(given, Flow):
        return given
    with known(layout.own if layout is not None else ()):
        if isinstance(given, str | Knockout | Rule):
            return _one(given)
        if not isinstance(given, Sequence) or not given:
            raise FlowError(f"a flow is a text, a Flow, a knockout or a list of these, not {given!r}")
        if len(given) == 1:
            return as_flow(given[0], layout)
        return Flow.load("+".join(map(_text, given)))


def _one(given: str | Knockout | Rule) -> Flow:
    if isinstance(given, str):
        return Flow.load(given)
    rule = given if isinstance(given, Rule) else Rule(given)
    return Flow("cuts", str(rule), str(rule), rules=(rule,))


def _text(given: object) -> str:
    """As the language writes it, to be joined with others."""
    text = given.text if isinstance(given, Flow) else given
    if not isinstance(text, str | Knockout | Rule):
        raise FlowError(f"a flow in a list is a text, a Flow or a knockout, not {given!r}")
    if is_file(str(text)):
        raise FlowError(
            f"the flow of a file ({text}) can't be joined with others: write its rules into the list"
        )
    return str(text)
