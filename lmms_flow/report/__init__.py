"""What came out: arms read from lmms-eval's output, statistics, tables and figures, the page.

`samples_df("out")` has every answer as a row of a pandas DataFrame.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .samples import samples_df

__all__ = ["samples_df"]


def __dir__() -> list[str]:
    """The public names."""
    return sorted(__all__)


def __getattr__(name: str) -> Any:
    """Loads a public name when it is first asked for."""
    if name == "samples_df":
        from .samples import samples_df

        return samples_df
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
