"""Attention knockouts and sparse pathways for video language models, scored by lmms-eval."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .flow import Flow, FlowError, Layout

__version__ = "0.1.0"
__all__ = ["Flow", "FlowError", "Layout", "__version__"]


def __getattr__(name: str) -> Any:
    """Loads a public name when it is first asked for: every start of lmms-eval imports this package."""
    if name in ("Flow", "FlowError", "Layout"):
        from . import flow

        return getattr(flow, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
