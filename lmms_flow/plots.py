"""What every figure needs."""

from __future__ import annotations


def literal(text: str) -> str:
    """A name for matplotlib, which takes what stands between two dollar signs for a formula."""
    return text.replace("$", r"\$")
