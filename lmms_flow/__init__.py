"""Attention knockouts and sparse pathways for video language models, scored by lmms-eval."""

from .flow import Flow, FlowError, Layout

__version__ = "0.1.0"
__all__ = ["Flow", "FlowError", "Layout", "__version__"]
