"""What a notebook shows of flows, prompts and results: small pieces of HTML, nothing in them that is loaded or runs."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from .plots import BLUE, CUT, GOLD, GREEN, GREY, KEPT, PINK, RED, SETTINGS, VIOLET

GROUP_COLOURS = {
    "system": GREY,
    "video": BLUE,
    "gap": PINK,
    "question": GREEN,
    "tail": GOLD,
    "last": RED,
}
OWN = VIOLET  # groups that a user named
SPANS = 8  # pieces of a group that are listed
AT_MOST = 4000  # tokens that are shown one by one
_CELL = "display:inline-block;width:{width}px;height:13px;margin-right:1px;background:{colour}"


def strips(title: str, rows: Sequence[tuple[str, Sequence[bool]]], notes: Iterable[str] = ()) -> str:
    """A row of layers for each kind of edge: blue where it is kept, orange where it is cut.

    Args:
        title: above them.
        rows: what is cut, and for each layer whether it is cut there.
        notes: below.
    """
    longest = max((len(cut) for _, cut in rows), default=0)
    width = max(4, min(16, 560 // max(longest, 1)))
    lines = []
    for name, cut in rows:
        cells = "".join(
            f'<span title="layer {layer}: {"cut" if is_cut else "kept"}" '
            f'style="{_CELL.format(width=width, colour=CUT if is_cut else KEPT)}"></span>'
            for layer, is_cut in enumerate(cut, 1)
        )
        lines.append(
            f'<tr><td style="text-align:left;padding-right:1em"><code>{escape(name)}</code></td>'
            f'<td style="text-align:left;white-space:nowrap;line-height:0">{cells}</td></tr>'
        )
    below = [f"layers 1 to {longest}, from the left; blue: kept, orange: cut"] if longest else []
    told = "".join(f"<div><small>{escape(note)}</small></div>" for note in [*below, *notes])
    return f"<div><b>{escape(title)}</b><table>{''.join(lines)}</table>{told}</div>"


def prompt_bar(
    about: str, num_tokens: int, groups: Mapping[str, Sequence[range]], parts: Sequence[str]
) -> str:
    """A bar of a prompt, groups to scale, and where each group lies.

    Args:
        about: above the table.
        num_tokens: of the prompt.
        groups: the tokens of each.
        parts: the groups that cover the prompt without overlap, in order.
    """
    sizes = {name: sum(map(len, span)) for name, span in groups.items() if span}
    bar = "".join(
        f'<span title="{name}: {sizes[name]} tokens" style="display:inline-block;height:16px;min-width:3px;'
        f'width:{100 * sizes[name] / num_tokens:.2f}%;background:{colour_of(name)}"></span>'
        for name in parts
        if name in sizes
    )
    rows = (
        (name, size, ", ".join(f"{part.start}-{part.stop - 1}" for part in groups[name][:SPANS]))
        for name, size in sizes.items()
    )
    shown = table(("group", "tokens", "where"), rows, about)
    return f'<div style="width:100%;max-width:640px;line-height:0">{bar}</div>{shown}'


def tokens(words: Sequence[tuple[str, str]], legend: Iterable[str]) -> str:
    """Tokens coloured by their group.

    Args:
        words: each token's text (a frame stands for all of its tokens) and its group.
        legend: the groups that there are, in order.
    """
    shown = "".join(
        f'<span title="{escape(group)}" style="background:{colour_of(group)}33;border-bottom:2px solid '
        f'{colour_of(group)};margin-right:1px">{escape(word)}</span>'
        for word, group in words[:AT_MOST]
    )
    more = f"<small> and {len(words) - AT_MOST} more tokens</small>" if len(words) > AT_MOST else ""
    key = " ".join(
        f'<span style="border-bottom:2px solid {colour_of(group)}">{escape(group)}</span>' for group in legend
    )
    return f'<div><small>{key}</small></div><div style="line-height:1.9;word-break:break-word">{shown}{more}</div>'


def colour_of(group: str) -> str:
    """A group's colour."""
    return GROUP_COLOURS.get(group, OWN)


def table(
    heads: Sequence[str], rows: Iterable[Sequence[Any]], title: str = "", notes: Iterable[str] = ()
) -> str:
    """A table of texts."""
    head = "".join(f"<th>{escape(str(each))}</th>" for each in heads)
    body = "".join(
        "<tr>" + "".join(f'<td style="text-align:left">{escape(str(cell))}</td>' for cell in row) + "</tr>"
        for row in rows
    )
    told = "".join(f"<div><small>{escape(note)}</small></div>" for note in notes)
    return f"<div><b>{escape(title)}</b><table><tr>{head}</tr>{body}</table>{told}</div>"


def axes_of(ax: Any, width: float = 7, height: float = 3.6) -> Any:
    """The axes that were given, or those of a figure of its own, which no list of open figures holds."""
    if ax is not None:
        return ax
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained").subplots()


def picture(figure: Any) -> str:
    """A figure as SVG within HTML."""
    from matplotlib import rc_context

    text = io.StringIO()
    with rc_context({**SETTINGS, "svg.fonttype": "none"}):
        figure.savefig(text, format="svg", metadata={"Date": None})
    drawn = text.getvalue()
    return f"<div>{drawn[drawn.index('<svg') :]}</div>"
