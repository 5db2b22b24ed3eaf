"""Attention knockouts and sparse pathways for video language models, scored by lmms-eval.

`load("flow-tiny")` gives a model whose `.prompt(video, question, options)` has `.inputs` and `.layout`. With these
`lmms_flow.engine.intervene` cuts attention edges and `lmms_flow.engine.sweep` draws knockout curves. `Flow` reads what
is cut, `Layout` says which tokens are which group. examples/first_knockout.ipynb walks through it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .flow import Flow, FlowError, Layout
    from .public import load

__version__ = "0.1.0"
__all__ = ["Flow", "FlowError", "Layout", "__version__", "load"]


def __dir__() -> list[str]:
    """The public names, also those that are loaded when they are first asked for."""
    return sorted(__all__)


def __getattr__(name: str) -> Any:
    """Loads a public name when it is first asked for: every start of lmms-eval imports this package."""
    if name in ("Flow", "FlowError", "Layout"):
        from . import flow

        return getattr(flow, name)
    if name == "load":
        from .public import load

        return load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
