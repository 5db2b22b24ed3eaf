"""The random control: as many edges cut as a pathway cuts, anywhere among video, question and what follows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import FlowError
from .layout import Layout

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class RandomCut:
    """Cuts a `share` of the causal triangle in every layer on its own, or as many edges as the flow `like` cuts.

    Pairs are drawn without replacement among those with both ends at or after the first video token, so that every
    token may still read `system` (the paper's random baseline, Table 3).
    """

    seed: int = 0
    share: float | None = None
    like: str | None = None


def first_eligible(layout: Layout) -> int:
    """The first token whose edges may be drawn: the first of the video, or of what follows where there is none."""
    return next(r.start for name in ("video", "gap", "question", "tail", "last") for r in layout.groups[name])


def draw_counts(num_edges: int, num_layers: int, layout: Layout) -> tuple[int, ...]:
    """`num_edges` spread evenly over the layers; raises FlowError where a layer has too few eligible pairs."""
    base, extra = divmod(num_edges, num_layers)
    counts = tuple(base + (layer < extra) for layer in range(num_layers))
    check_eligible(max(counts), layout)
    return counts


def check_eligible(count: int, layout: Layout) -> None:
    """Raises FlowError where fewer than `count` pairs may be drawn."""
    length = layout.num_tokens - first_eligible(layout)
    eligible = length * (length + 1) // 2
    if count > eligible:
        total = layout.num_tokens * (layout.num_tokens + 1) // 2
        raise FlowError(
            f"random: {count} edges a layer are to be cut, but only {eligible} pairs have both ends after the first "
            f"video token; the share can be at most {eligible / total:.3f} for this prompt"
        )


def draw(layout: Layout, layer: int, count: int, seed: int) -> NDArray[np.bool_]:
    """The pairs cut in one layer (counted from 1), as a bool array [query, key]."""
    import numpy as np

    start = first_eligible(layout)
    length = layout.num_tokens - start
    chosen = np.zeros(length * (length + 1) // 2, dtype=np.bool_)
    picks = np.random.default_rng((seed, layer)).choice(len(chosen), size=count, replace=False, shuffle=False)
    chosen[picks] = True
    cut = np.zeros((layout.num_tokens, layout.num_tokens), dtype=np.bool_)
    square = np.zeros((length, length), dtype=np.bool_)
    square[np.tril_indices(length)] = chosen
    cut[start:, start:] = square
    return cut
