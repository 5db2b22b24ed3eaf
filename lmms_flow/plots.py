"""The style of every figure: a colour, a dash and a marker for each kind of edge, and what all figures share.

The colours are of middling lightness, so that each stands out on white and on a dark page alike, and no line is told
from another by its colour alone: dash and marker differ as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

BLUE, RED, GREEN, PINK, GOLD, GREY, BROWN, VIOLET = (
    "#2f7fc1",
    "#d1560f",
    "#0a8f68",
    "#bf5c96",
    "#9a7a00",
    "#7d8690",
    "#9a6548",
    "#7f6fd0",
)
KEPT, CUT, NEVER = "#2a78b8", "#f2b8a0", "#ffffff"  # edges in a mask, and what lies above its diagonal
INK = "#1c2430"  # the text of a figure; a page replaces it by its own
ZERO = "#8a929b"  # the line at zero, grids

WINDOWS = "layer (centre of the window)"

MARKERS = "osD^vPX*<>"
DASHES = ("-", "--", "-.", ":")


@dataclass(frozen=True)
class Style:
    """How one line is drawn."""

    colour: str
    dash: str = "-"
    marker: str = "o"


# What flows from where to where; a figure of the same edges has the same colour everywhere.
EDGES: Mapping[str, Style] = {
    "cross_frame": Style(GOLD, "-", "o"),
    "video:question": Style(BLUE, "-", "s"),
    "video:last": Style(GREEN, "--", "D"),
    "question:last": Style(RED, "-", "^"),
    "last:last": Style(GREY, ":", "v"),
    "stem:last": Style(VIOLET, "--", "P"),
    "true_option:last": Style(RED, "-.", "X"),
    "false_options:last": Style(BROWN, ":", "*"),
    "video:stem": Style(BLUE, "--", "<"),
    "stem:true_option": Style(VIOLET, "-.", ">"),
    "video:true_option": Style(GREEN, "-.", "h"),
    "stem:false_options": Style(VIOLET, ":", "d"),
    "video:false_options": Style(GREEN, ":", "p"),
}
TRUE, FALSE = Style(GREEN, "-", "o"), Style(RED, "--", "s")  # options
_OTHERS = (BLUE, RED, GREEN, PINK, GOLD, BROWN, VIOLET, GREY)

# The same file each time.
SETTINGS: Any = {"svg.fonttype": "path", "svg.hashsalt": "lmms-flow", "font.size": 9}
PAGE: Any = {
    **SETTINGS,
    "svg.fonttype": "none",  # text that a screen reader and a search find
    "text.color": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.edgecolor": ZERO,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": "medium",
    "legend.frameon": False,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
}


def style_of(rule: str, place: int = 0) -> Style:
    """The style of a kind of edge; of one that has none of its own by its place among those of its figure."""
    return EDGES.get(rule) or other_style(place)


def other_style(place: int) -> Style:
    """One of many styles by its place."""
    marker, dash = MARKERS[place % len(MARKERS)], DASHES[place // len(_OTHERS) % len(DASHES)]
    return Style(_OTHERS[place % len(_OTHERS)], dash, marker)


def draw_line(
    axes: Any, layers: Sequence[int], mean: Any, style: Style, label: str, band: tuple[Any, Any] | None = None
) -> None:
    """A curve over the layers, as a line with markers, at most twelve of them, and its interval as a band."""
    axes.plot(
        layers,
        mean,
        color=style.colour,
        ls=style.dash,
        marker=style.marker,
        ms=3.5,
        lw=1.5,
        markevery=max(1, len(layers) // 12),
        label=literal(label),
    )
    if band is not None:
        axes.fill_between(layers, *band, color=style.colour, alpha=0.2, lw=0)


def draw_zero(axes: Any, xlabel: str, ylabel: str) -> None:
    """A grey line at zero, whole layers on x, and what the axes are."""
    from matplotlib.ticker import MaxNLocator

    axes.axhline(0, color=ZERO, lw=0.8, zorder=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)


def draw_strips(axes: Any, strips: Sequence[tuple[str, Sequence[bool]]], layers: int, nothing: str) -> None:
    """Which edges are cut in which layers, a row for each kind of edge.

    Args:
        axes: of matplotlib.
        strips: the name of each kind, and for each layer whether it is cut there.
        layers: how many there are.
        nothing: the name of the one row where there is no kind: "random draws" is drawn as cut.
    """
    rows = list(strips) or [(nothing, [nothing == "random draws"] * layers)]
    for place, (_, cut) in enumerate(rows):
        axes.barh(
            [place] * layers,
            0.9,
            left=[layer - 0.45 for layer in range(1, layers + 1)],
            color=[CUT if is_cut else KEPT for is_cut in cut],
            height=0.8,
        )
    axes.set_yticks(range(len(rows)), [name for name, _ in rows], fontsize="small")
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlim(0.5, layers + 0.5)
    axes.set_xlabel("layer (blue: kept, orange: cut)", fontsize="small")
    axes.tick_params(labelsize="small")
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)


def literal(text: str) -> str:
    """A name for matplotlib, which takes what stands between two dollar signs for a formula."""
    return text.replace("$", r"\$")
