"""Read-outs of layers: when the answer appears, which words the video speaks, where the prompt looks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
from matplotlib.figure import Figure

from ...plots import FALSE, TRUE, literal
from ...trace.curves import Curve, mean_by_clip
from .attention_figures import attention_block
from .curve_figures import below, finish, heat
from .gathered import Gathered
from .map_section import Drawn
from .parts import Block, Section, joined
from .pictures import PANEL, Picture, slug

WORDS = 14  # rows of the lens


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
            [attention_block(one, drawn) for one in gathered],
        ),
    )
    for name, title, lead, blocks in made:
        kept = tuple(block for block in blocks if block is not None)
        if kept:
            yield Section(name, title, lead, kept, tuple(commands))


PROBABILITY_LEAD = (
    "When the answer appears: the state of the prompt's last token after each layer is put through the model's "
    "output head, as if no layer followed, once as it is and once after the model's final norm. Shown are the "
    "probabilities of the true option's letter and of a false option's (the mean of all false ones), in the mean "
    "over questions with 95 % intervals from resampling whole clips."
)
LENS_LEAD = (
    "Which words the video's tokens are nearest to: the state of each after a layer is put through the model's output "
    "head, and the likeliest word is taken (a logit lens). The colour is the share of all questions' video tokens that "
    "have this word. Words are the model's own tokens: ␣ is a space in front of one, � is a part of a sign, and what "
    "stands in <> is no text, such as the end of the answer."
)
ATTENTION_LEAD = (
    "Where the prompt looks: the share of attention that the question, the options and the prompt's last token give "
    "to each frame, in the mean over heads, tokens and questions; the rest goes to other tokens. Each panel has "
    "colours of its own. Below it the knockout of the very same edges, as in a flow map: the relative change of the "
    "answer's probability when they are cut around a layer, those of the true and of the false options apart. "
    "Attention says where a token looks, a knockout what the answer needs."
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
            curve.draw(axes, style, curve.knockout)
        finish(axes, f"states {how}", "probability (%)", "layer")
        below(figure, len(kept))
        told = "; ".join(f"{curve.knockout} ends at {curve.mean[-1]:.1f} %" for curve, _ in kept)
        number = kept[0][0].questions
        caption = f"{one.title}: states {how}, {number} questions."
        name = slug(one.title, "probability", kind)
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
    caption = f"{one.title}: the {len(words)} commonest words by layer{_of_layers(layers)}."
    name = slug(one.title, "lens")
    return Block(pictures=(Picture(name, caption, f"Words of the video by layer: {told}.", figure),))


def _of_layers(layers: Sequence[int]) -> str:
    """Which layers were read, where not all were."""
    if layers == list(range(1, len(layers) + 1)):
        return ""
    starts = [layer for layer in layers if layer - 1 not in layers]
    ends = [layer for layer in layers if layer + 1 not in layers]
    runs = [f"{one}" if one == other else f"{one}-{other}" for one, other in zip(starts, ends, strict=True)]
    return f"; layers {joined(runs)} were read"


def _middle(counters: Sequence[Counter[str]], word: str) -> float:
    """The place around which a word is spoken."""
    counts = np.array([counter[word] for counter in counters], dtype=float)
    return float((counts * np.arange(len(counts))).sum() / max(1.0, counts.sum()))
