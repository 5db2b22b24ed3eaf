"""Attention and words drawn on the frames themselves, for one question of each run (the paper's Figs 5 and 6)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from PIL import Image

from ...plots import literal
from ...trace.bins import LayerBins
from ...trace.curves import bin_in
from ..table import one_line
from ..traces import Traced
from .as_seen import Seen, seen
from .frames import data_address, sheet
from .parts import Block, FrameRow
from .pictures import PANEL, Picture, slug

WIDTH = 112
TRIED = 20  # questions that are looked at for one that can be drawn
TARGETS = ("question", "options", "last")
LENS_BINS = 3  # of the layers that words are drawn of
LENS_PIXELS = 96  # of a frame with words, which must stay readable
PALE = 0.35  # of the frame behind its words


def frames_with_attention(traced: Sequence[Traced]) -> Block | None:
    """The first traced question whose frames can be read again and whose tokens lie on a grid; None where none is.

    A frame is shown as the model saw it; a token's colour is its attention in the layer that looks at the video most.
    """
    for one in [each for each in traced if "attention.last.tokens" in each.record.shapes][:TRIED]:
        arrays = one.arrays()
        frames = seen(one, dict(arrays.about))
        if frames is None:
            continue
        tokens = {target: arrays.values.get(f"attention.{target}.tokens") for target in TARGETS}
        rows = [
            _row(frames, each.astype(np.float64), name) for name, each in tokens.items() if each is not None
        ]
        text = (
            f"Question {one.record.id} of {one.record.base or one.record.task}: attention drawn on its frames, which "
            "follow one another from left to right, in the layer that looks at the video most. The brighter, the "
            "more."
        )
        return Block(text=text, frames=tuple(rows))
    return None


def _row(frames: Seen, tokens: Any, target: str) -> FrameRow:
    """`tokens` is [layer, video token]."""
    layer = int(tokens.sum(axis=1).argmax())
    top = max(float(tokens[layer].max()), 1e-12)
    parts = [frames.grid(tokens[layer], number) / top for number in range(len(frames.pixels))]
    drawn = np.stack([_blend(frame, part) for frame, part in zip(frames.pixels, parts, strict=True)])
    strongest = int(np.argmax([part.sum() for part in parts]))
    alt = f"Attention of {target} in layer {layer + 1} on each frame; frame {strongest + 1} gets most"
    return FrameRow(data_address(sheet(drawn, WIDTH), 45), alt, f"{target} to video, layer {layer + 1}")


def _blend(frame: Any, part: Any) -> Any:
    """A frame in grey, its tokens' attention in colour above it."""
    height, width = frame.shape[:2]
    colours = (255 * colormaps["inferno"](np.sqrt(np.clip(part, 0, 1)))[..., :3]).astype(np.uint8)
    above = np.asarray(
        Image.fromarray(colours).resize((width, height), Image.Resampling.BICUBIC), dtype=np.float64
    )
    grey = np.asarray(frame, dtype=np.float64).mean(axis=-1, keepdims=True)
    return (0.45 * grey + 0.55 * above).clip(0, 255).astype(np.uint8)


def frames_with_words(traced: Sequence[Traced]) -> Block | None:
    """The lens' words on the frames of the first question that can be drawn, a figure for some bins of layers."""
    for one in [each for each in traced if "logit_lens.tokens" in each.record.shapes][:TRIED]:
        arrays = one.arrays()
        frames = seen(one, dict(arrays.about))
        words = arrays.about.get("words")
        if frames is None or not isinstance(words, Mapping):
            continue
        top = arrays.values["logit_lens.tokens"][..., 0]
        name = slug("words", one.record.base or one.record.task, one.record.doc_id)
        text = (
            f"Question {one.record.id} of {one.record.base or one.record.task}: the word nearest to each token, drawn "
            "on the part of the frame that the token covers; of several layers the commonest word."
        )
        read = list(arrays.about.get("lens_layers") or range(1, len(top) + 1))
        return Block(text=text, pictures=tuple(_word_pictures(frames, top, read, words, name)))
    return None


def _word_pictures(
    frames: Seen, top: Any, read: Sequence[int], words: Mapping[str, str], name: str
) -> Iterator[Picture]:
    """`top` is [layer, video token], the likeliest token's id; `read` says which layers those are."""
    bins = LayerBins.of([0.0] * len(top), bin_in(len(top)))
    numbers = np.unique(np.linspace(0, len(bins.means) - 1, LENS_BINS).round().astype(int)).tolist()
    shown = _spread(len(frames.pixels), 4 if frames.side <= 6 else 2)
    for number in numbers:
        places = [place - 1 for place in bins.layers(number)]
        layers = [read[place] for place in places]
        said = [_commonest(top[places, token], words) for token in range(top.shape[1])]
        grids = {frame: frames.grid(np.array(said, dtype=object), frame) for frame in shown}
        title = f"layers {layers[0]}-{layers[-1]}" if len(layers) > 1 else f"layer {layers[0]}"
        most = ", ".join(f"{word} {count} times" for word, count in Counter(said).most_common(5))
        alt = f"Words nearest to the video's tokens in {title}, drawn on {len(shown)} frames; of all tokens: {most}."
        figure = _word_figure(frames, grids, title)
        yield Picture(f"{name}-{layers[0]}", f"{title.capitalize()}: words on frames.", alt, figure)


def _spread(count: int, most: int) -> list[int]:
    """At most so many of the frames, from the first to the last."""
    found: list[int] = np.unique(np.linspace(0, count - 1, most).round().astype(int)).tolist()
    return found


def _commonest(tokens: Any, words: Mapping[str, str]) -> str:
    ((token, _),) = Counter(tokens.tolist()).most_common(1)
    word = words.get(str(token), f"#{token}")
    return one_line(word, 10) or "␣"


def _word_figure(frames: Seen, grids: Mapping[int, Any], title: str) -> Figure:
    """Frames behind their words, two in a row, with a word in each cell."""
    rows = -(-len(grids) // 2)
    figure = Figure(figsize=(PANEL[0], 0.35 + 1.95 * rows), layout="constrained")
    panels = figure.subplots(rows, 2, squeeze=False).ravel()
    cell = 1.75 / frames.side  # inches
    for axes, (number, grid) in zip(panels, grids.items(), strict=False):
        small = Image.fromarray(np.ascontiguousarray(frames.pixels[number])).resize(
            (LENS_PIXELS, LENS_PIXELS)
        )
        # Pale on a white page and dim on a dark one, whose ink the words have.
        box = (0, frames.side, frames.side, 0)
        axes.imshow(np.asarray(small), alpha=PALE, extent=box, interpolation="none")
        for (row, column), word in np.ndenumerate(grid):
            size = min(7.0, 72 * cell / (0.65 * max(2, len(word))))
            axes.text(column + 0.5, row + 0.5, literal(word), ha="center", va="center", fontsize=size)
        axes.set_title(f"frame {number + 1}", fontsize="small", loc="left")
    for axes in panels:
        axes.set_axis_off()
    figure.suptitle(title, x=0.02, ha="left", fontsize="medium")
    return figure
