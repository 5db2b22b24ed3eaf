"""Figures as they stand in the page: inline SVG whose text is text in the page's own ink, with words beside it."""

from __future__ import annotations

import io
import re
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from html import escape

from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.figure import Figure

from ...plots import INK, PAGE

PANEL = (3.75, 2.8)  # inches: one column of a telephone, so that nothing is scaled down there


@dataclass(frozen=True, eq=False)
class Picture:
    """One figure.

    Args:
        name: of its files, and of its place in the page.
        caption: below it.
        alt: what it shows, with its main numbers, for a reader who does not see it.
        figure: drawn inside of :func:`page_style`.
    """

    name: str
    caption: str
    alt: str
    figure: Figure

    def __post_init__(self) -> None:
        """Lays it out, once for all formats."""
        self.figure.draw_without_rendering()
        self.figure.set_layout_engine("none")

    def svg(self) -> str:
        """The text of an SVG without a date."""
        text = io.StringIO()
        with page_style():
            self.figure.savefig(text, format="svg", metadata={"Date": None})
        return text.getvalue()

    def inline(self) -> Markup:
        """The SVG as an element of a page: names of its own, no comments, the ink of the text around it."""
        return self._inline

    @cached_property
    def _inline(self) -> Markup:
        text = self.svg()
        text = text[text.index("<svg") :]
        text = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
        text = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{self.name}-", text)
        text = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font-size: \1", text)
        text = text.replace(INK, "currentColor")
        size = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', text)
        assert size is not None
        head = (
            f'<svg class="plot" role="img" aria-labelledby="{self.name}-alt" viewBox="0 0 {size[1]} {size[2]}" '
            f'style="max-width: {float(size[1]) * 4 / 3:.0f}px"><title id="{self.name}-alt">{escape(self.alt)}</title>'
        )
        body = re.sub(r"\s*\n\s*", "\n", text[text.index(">") + 1 :])
        return Markup(head + body)  # texts are escaped, or drawn as paths  # nosec B704


def page_style() -> AbstractContextManager[None]:
    """Inside of it figures have the page's style."""
    return rc_context(PAGE)


def slug(*words: object) -> str:
    """A name for an element and a file, out of any words."""
    return re.sub(r"[^a-z0-9]+", "-", " ".join(map(str, words)).lower()).strip("-") or "figure"
