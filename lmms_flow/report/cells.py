"""Cells of a CSV that a spreadsheet opens: a text is never taken for a formula, and a number stays a number."""

from __future__ import annotations

from typing import Any

# What makes Excel, LibreOffice or Google Sheets calculate; the wide signs do where the language is Chinese or Japanese.
STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")


def harmless(value: Any) -> Any:
    """The value; a text that would be a formula with an apostrophe in front, which makes it a text."""
    if not isinstance(value, str) or not value.startswith(STARTS) or _is_number(value):
        return value
    return f"'{value}"


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
