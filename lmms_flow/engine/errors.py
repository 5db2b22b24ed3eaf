"""What the engine raises where it would be wrong."""

from __future__ import annotations

from ..flow import FlowError


class UnsupportedModelError(FlowError):
    """A model or an attention implementation in which a cut would not be applied, named in the message."""
