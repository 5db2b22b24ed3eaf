"""Read-outs of layers: when the answer appears, which words the video speaks, where the prompt looks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ...errors import ReportError
from ...plots import FALSE, TRUE, literal, style_of
from ...trace.curves import Curve, mean_by_clip
from ..arms import benchmark_of
from ..joining import arm_key
from ..table import one_line
from ..traces import Traced
from .curve_figures import below, draw_curve, finish, heat, lowest
from .map_section import Drawn
from .parts import Block, Section, short_checkpoint
from .pictures import PANEL, Picture, slug

WORDS = 14  # rows of the lens
TARGETS = ("question", "options", "last")
# The knockout of the edges that a target's attention runs along.
SAME_EDGES = {"question": "video:question", "options": "video:true_option", "last": "video:last"}


@dataclass
class Gathered:
    """What the read-outs of questions that were asked alike add up to; one a checkpoint and benchmark."""

    checkpoint: str
    benchmark: str
    clips: dict[str, list[str]] = field(default_factory=dict)
    probabilities: dict[str, list[NDArray[np.float64]]] = field(default_factory=dict)  # each [layer]
    words: dict[int, Counter[str]] = field(default_factory=dict)  # of each layer that was read
    attention: dict[str, list[NDArray[np.float64]]] = field(default_factory=dict)  # each [layer, frame]
    merged: int = 1  # frames of the video that are one in the prompt, as in pairs

    def add(self, one: Traced) -> None:
        """Reads the arrays of one question. Raises ReportError where they are not what they should be."""
        if not any(name.startswith(("generation_", "logit_", "attention.")) for name in one.record.shapes):
            return
        arrays = one.arrays()
        clip = one.record.clip or f"question {one.record.task} {one.record.doc_id}"
        try:
            self._probability(arrays.values, arrays.about, clip)
            self._lens(arrays.values, arrays.about)
            in_prompt = len(arrays.about.get("frames") or ()) or 1
            self.merged = max(self.merged, len(one.record.frames) // in_prompt)
            for target in TARGETS:
                values = arrays.values.get(f"attention.{target}")
                if values is not None and values.size:
                    self.attention.setdefault(target, []).append(values.mean(axis=1, dtype=np.float64))
        except (KeyError, TypeError, ValueError, IndexError) as error:
            place = one.folder / one.record.arrays
            raise ReportError(
                f"{place}: not the read-outs of a trace ({error}); delete it and run again"
            ) from None

    def _probability(
        self, values: Mapping[str, NDArray[np.float32]], about: Mapping[str, object], clip: str
    ) -> None:
        letters, true = list(about["letters"]), about["true_letter"]  # type: ignore[call-overload]
        for kind in ("head", "normed"):
            array = values.get(f"generation_probability.{kind}")
            if array is None or true not in letters:
                continue
            place = letters.index(true)
            false = np.delete(array, place, axis=1)
            self._note(f"{kind} true", 100 * array[:, place].astype(np.float64), clip)
            if false.shape[1]:
                self._note(f"{kind} false", 100 * false.mean(axis=1, dtype=np.float64), clip)

    def _note(self, name: str, curve: NDArray[np.float64], clip: str) -> None:
        self.probabilities.setdefault(name, []).append(curve)
        self.clips.setdefault(name, []).append(clip)

    def _lens(self, values: Mapping[str, NDArray[np.int32]], about: Mapping[str, object]) -> None:
        tokens = values.get("logit_lens.tokens")
        if tokens is None:
            return
        names = about.get("words")
        words = names if isinstance(names, Mapping) else {}
        layers = about.get("lens_layers") or range(1, len(tokens) + 1)
        for layer, of_layer in zip(layers, tokens[..., 0], strict=True):  # type: ignore[call-overload]
            ids, counts = np.unique(of_layer, return_counts=True)
            counter = self.words.setdefault(layer, Counter())
            for token, count in zip(ids.tolist(), counts.tolist(), strict=True):
                counter[word_of(words.get(str(token)), token)] += count


def word_of(text: object, token: int) -> str:
    """A token as a row's name: spaces are shown, so that `of` and ` of` are told apart."""
    return (
        f"token {token}"
        if not isinstance(text, str) or not text
        else one_line(text.replace(" ", "␣"), 18) or "␣"
    )


def gather(traced: Sequence[Traced]) -> list[Gathered]:
    """The read-outs of all traced questions, by checkpoint and benchmark."""
    found: dict[tuple[str, str], Gathered] = {}
    for one in traced:
        key = arm_key(one.record)[0], benchmark_of(one.record.base or one.record.task)
        found.setdefault(key, Gathered(*key)).add(one)
    return [found[key] for key in sorted(found)]


def readout_sections(
    gathered: Sequence[Gathered], drawn: Sequence[Drawn], commands: Sequence[str], seed: int
) -> Iterator[Section]:
    """A section for each kind of read-out that was made."""
    made = (
        (
            "probability",
            "Generation probability",
            PROBABILITY_LEAD,
            [_probability(one, seed) for one in gathered],
        ),
        ("lens", "Logit lens", LENS_LEAD, [_lens(one) for one in gathered]),
        (
            "attention",
            "Attention to the frames",
            ATTENTION_LEAD,
            [_attention(one, drawn) for one in gathered],
        ),
    )
    for name, title, lead, blocks in made:
        kept = tuple(block for block in blocks if block is not None)
        if kept:
            yield Section(name, title, lead, kept, tuple(commands))


PROBABILITY_LEAD = (
    "When the answer appears: the last token's state after each layer, put through the model's head, as the "
    "probability of the true option's letter and of a false one's (mean, 95 % intervals by clip)."
)
LENS_LEAD = (
    "Which words the video speaks: the share of video tokens whose state after a layer is nearest to a word, over all "
    "questions. ␣ is a space in front of a word."
)
ATTENTION_LEAD = (
    "Where the prompt looks: the share of attention that a group's tokens give to each frame, mean over heads, tokens "
    "and questions. Below it the knockout of the very same edges: weights say where is looked, knockouts what is used."
)


def _probability(one: Gathered, seed: int) -> Block | None:
    pictures = []
    for kind, how in (("head", "as they are"), ("normed", "after the final norm")):
        curves = {name: _curve(one, f"{kind} {name}", f"{name} option", seed) for name in ("true", "false")}
        kept = [(curve, style) for curve, style in zip(curves.values(), (TRUE, FALSE), strict=True) if curve]
        if not kept:
            continue
        figure = Figure(figsize=PANEL, layout="constrained")
        axes = figure.subplots()
        for curve, style in kept:
            draw_curve(axes, curve, style, curve.knockout)
        finish(axes, f"states {how}", "probability (%)", "layer")
        below(figure, len(kept))
        told = "; ".join(f"{curve.knockout} ends at {curve.mean[-1]:.1f} %" for curve, _ in kept)
        number = kept[0][0].questions
        caption = f"{one.benchmark}, {short_checkpoint(one.checkpoint)}: states {how}, {number} questions."
        name = slug(one.benchmark, short_checkpoint(one.checkpoint), "probability", kind)
        pictures.append(Picture(name, caption, f"Probability by layer, states {how}: {told}.", figure))
    return Block(pictures=tuple(pictures)) if pictures else None


def _curve(one: Gathered, name: str, label: str, seed: int) -> Curve | None:
    rows = one.probabilities.get(name)
    if not rows:
        return None
    clips = one.clips[name]
    mean, low, high = mean_by_clip(np.stack(rows), clips, seed=seed)
    return Curve(label, tuple(range(1, len(mean) + 1)), mean, low, high, len(rows), len(set(clips)))


def _lens(one: Gathered) -> Block | None:
    if not one.words:
        return None
    layers = sorted(one.words)
    counters = [one.words[layer] for layer in layers]
    totals = np.array([max(1, sum(counter.values())) for counter in counters])
    strength: Counter[str] = Counter()
    for counter, total in zip(counters, totals, strict=True):
        for word, count in counter.items():
            strength[word] = max(strength[word], round(1e6 * count / total))
    words = sorted(
        (word for word, _ in strength.most_common(WORDS)), key=lambda word: _middle(counters, word)
    )
    shares = np.array([[counter[word] for counter in counters] for word in words]) / totals
    figure = Figure(figsize=(PANEL[0], 1.1 + 0.2 * len(words)), layout="constrained")
    axes = figure.subplots()
    heat(figure, axes, 100 * shares, "video tokens (%)")
    axes.set_yticks(range(len(words)), [literal(word) for word in words], fontsize=7.5)
    axes.set_xlabel("layer")
    if layers != list(range(1, len(layers) + 1)):  # some layers alone were read: each column by its own
        step = max(1, -(-len(layers) // 14))
        axes.set_xticks(range(1, len(layers) + 1, step), [str(layer) for layer in layers[::step]])
    strongest = zip(words, shares.argmax(axis=1).tolist(), strict=True)
    told = "; ".join(f"{word} most in layer {layers[place]}" for word, place in strongest)
    caption = (
        f"{one.benchmark}, {short_checkpoint(one.checkpoint)}: the {len(words)} commonest words by layer."
    )
    name = slug(one.benchmark, short_checkpoint(one.checkpoint), "lens")
    return Block(pictures=(Picture(name, caption, f"Words of the video by layer: {told}.", figure),))


def _middle(counters: Sequence[Counter[str]], word: str) -> float:
    """The place around which a word is spoken."""
    counts = np.array([counter[word] for counter in counters], dtype=float)
    return float((counts * np.arange(len(counts))).sum() / max(1.0, counts.sum()))


def _attention(one: Gathered, drawn: Sequence[Drawn]) -> Block | None:
    pictures = []
    for target in TARGETS:
        same = [
            each for each in one.attention.get(target, ()) if each.shape == one.attention[target][0].shape
        ]
        if same:
            pictures.append(_attention_picture(one, target, same, _knockout(one, target, drawn)))
    return Block(pictures=tuple(pictures)) if pictures else None


def _knockout(one: Gathered, target: str, drawn: Sequence[Drawn]) -> Curve | None:
    maps = (
        each for each in drawn if (each.map.checkpoint, each.map.benchmark) == (one.checkpoint, one.benchmark)
    )
    return next((each.curves[SAME_EDGES[target]] for each in maps if SAME_EDGES[target] in each.curves), None)


def _frame(place: int, merged: int) -> str:
    """A frame by its number from 1; frames that are merged in the prompt by the first and the last of them."""
    return str(place + 1) if merged == 1 else f"{place * merged + 1}-{(place + 1) * merged}"


def _attention_picture(
    one: Gathered, target: str, rows: Sequence[NDArray[np.float64]], knockout: Curve | None
) -> Picture:
    mean = np.stack(rows).mean(axis=0)
    height = PANEL[1] + (1.3 if knockout else 0.0)
    figure = Figure(figsize=(PANEL[0], height), layout="constrained")
    ratios = [1.5, 1] if knockout else [1]
    grid = figure.subplots(len(ratios), 1, sharex=True, squeeze=False, height_ratios=ratios)[:, 0]
    heat(figure, grid[0], 100 * mean.T, "attention (%)")
    frames = mean.shape[1]
    step = max(1, -(-frames // 12))
    grid[0].set_yticks(
        range(0, frames, step), [_frame(frame, one.merged) for frame in range(0, frames, step)]
    )
    grid[0].set_ylabel("frame" if one.merged == 1 else f"frames, {one.merged} in one")
    grid[0].set_title(f"{target} to video", loc="left")
    layer = int(mean.sum(axis=1).argmax())
    told = f"most in layer {layer + 1}, to frame {_frame(int(mean[layer].argmax()), one.merged)}"
    caption = (
        f"{one.benchmark}, {short_checkpoint(one.checkpoint)}: {target} to video, {len(rows)} questions."
    )
    if knockout:
        draw_curve(grid[1], knockout, style_of(knockout.knockout), knockout.knockout)
        finish(grid[1], f"{knockout.knockout} cut", "change (%)", "layer")
        told += f"; under the knockout {lowest(knockout)}"
    else:
        grid[0].set_xlabel("layer")
    name = slug(one.benchmark, short_checkpoint(one.checkpoint), "attention", target)
    return Picture(name, caption, f"Attention of {target} to each frame by layer: {told}.", figure)
