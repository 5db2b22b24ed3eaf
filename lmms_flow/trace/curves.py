"""Flow maps: what each knockout in each window of layers does to the answer, over many questions.

A `FlowMap` holds the questions that were asked alike. Its curves are the paper's (section 2.2): for each centre of a
window the mean, over questions, of the relative change of a probability. Questions about one clip are no independent
samples, so the intervals are drawn by clip.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, Self, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from ..errors import FlowError, nearest
from ..flow.trace_settings import HOW, SHALLOWEST, scaled_to_depth
from ..notebook import axes_of, picture
from ..plots import WINDOWS, Style, draw_line, draw_zero, literal, style_of
from .bins import PAPER_BIN, LayerBins

Array: TypeAlias = NDArray[np.float64]
Of: TypeAlias = Literal["answer", "true_option"]
Among: TypeAlias = Literal["all", "right", "wrong"]
RESAMPLES = 2_000


@dataclass(frozen=True, eq=False)
class MapSample:
    """The map of one question.

    Args:
        id, doc_id, task, category: whose document it is; `task` is the one that was traced, not the trace.
        clip: which video it is about; equal for questions about one, empty where it has none.
        letters: of the options; empty for an open question.
        true_letter: of the right option; None where the document does not say it.
        answer: the most probable first token under full attention, decoded.
        baseline: its probability.
        baseline_options: [option], of each letter under full attention.
        probability: [knockout, centre], of `answer` under the knockout.
        options: [knockout, centre, option], of each letter.
        prediction: [knockout, centre], the id of the most probable token.
        true_tokens: ids of the tokens that are the right option's letter when they are decoded alone.
        right: whether `answer` is the right option's letter; None where that is not known.
    """

    id: str
    doc_id: int
    task: str
    category: str
    clip: str
    letters: tuple[str, ...]
    true_letter: str | None
    answer: str
    baseline: float
    baseline_options: Array
    probability: Array
    options: Array
    prediction: NDArray[np.int64]
    true_tokens: tuple[int, ...]
    right: bool | None

    def relative_change(self, of: Of) -> Array:
        """(p_knockout - p_base) / p_base in per cent, [knockout, centre]; nan where p_base is 0 or is not known."""
        if of == "answer":
            return _relative(self.probability, self.baseline)
        if self.true_letter is None or self.true_letter not in self.letters:
            return np.full(self.probability.shape, np.nan)
        place = self.letters.index(self.true_letter)
        return _relative(self.options[..., place], float(self.baseline_options[place]))

    @property
    def stays_right(self) -> Array:
        """1 where the most probable token under the knockout is the right letter, else 0; [knockout, centre]."""
        return np.isin(self.prediction, self.true_tokens).astype(np.float64)


@dataclass(frozen=True, eq=False)
class Curve:
    """One knockout's curve: `mean`, `low` and `high` [centre] in per cent, the last two of the 95 % interval.

    `layers` are the centres, from 1. `questions` and `clips` are how many it is the mean of. Without a question all is
    nan; from one clip there is no interval.
    """

    knockout: str
    layers: tuple[int, ...]
    mean: Array
    low: Array
    high: Array
    questions: int
    clips: int

    def draw(self, axes: Any, style: Style, label: str) -> None:
        """The mean as a line with markers, its interval as a band.

        Args:
            axes: of matplotlib.
            style: of the line.
            label: in the legend.
        """
        band = None if np.isnan(self.low).all() else (self.low, self.high)
        draw_line(axes, self.layers, self.mean, style, label, band)

    def plot(self, ax: Any = None) -> Any:
        """Draws it over its layers; returns the axes, in a figure of their own where none are given."""
        axes = axes_of(ax)
        self.draw(axes, style_of(self.knockout), self.knockout)
        draw_zero(axes, WINDOWS, "change (%)")
        axes.set_title(literal(self.knockout), loc="left")
        return axes

    def _repr_html_(self) -> str:
        return picture(self.plot().figure)


@dataclass(frozen=True, eq=False, repr=False)
class AskedAlike:
    """What samples under knockouts in windows of layers have in common; a subclass adds the samples.

    Args:
        checkpoint: repository id or folder, as the run named it.
        benchmark: whose questions these are, the first word of their task's name.
        protocol: whose prompt: "paper" or "stock".
        frames: that were asked for of each video.
        knockouts: rules without layers.
        centres: the layers that windows are centred on, from 1.
        window: how many layers a knockout takes at once.
        style: which layers are taken for a layer (`TraceSettings.style`).
        num_layers: of the model.
    """

    checkpoint: str
    benchmark: str
    protocol: str
    frames: int
    knockouts: tuple[str, ...]
    centres: tuple[int, ...]
    window: int
    style: str
    num_layers: int

    @property
    def asked(self) -> tuple[object, ...]:
        """All but the samples: what tells two of them apart."""
        return tuple(getattr(self, item.name) for item in fields(self) if item.name != "samples")

    def holding(self, samples: Sequence[Any]) -> Self:
        """The same with these samples."""
        own: Any = self
        return cast("Self", replace(own, samples=tuple(samples)))

    def __repr__(self) -> str:
        own: Any = self
        return (
            f"{type(self).__name__}({self.checkpoint}, {self.benchmark}; {len(own.samples)} samples, "
            f"{len(self.knockouts)} knockouts, {len(self.centres)} windows of {self.window} layers, {self.style})"
        )


@dataclass(frozen=True, eq=False, repr=False)
class FlowMap(AskedAlike):
    """The maps of questions that were asked alike.

    Args:
        samples: one a question.
        how: where a cut edge loses its weight (`TraceSettings.how`).
    """

    samples: tuple[MapSample, ...]
    how: str = HOW[0]

    @property
    def subtasks(self) -> tuple[str, ...]:
        """The tasks of its questions, in order."""
        return tuple(sorted({sample.task for sample in self.samples}))

    def part(self, *tasks: str) -> FlowMap:
        """The same map of the questions of some tasks alone."""
        return replace(self, samples=tuple(sample for sample in self.samples if sample.task in tasks))

    def among(self, which: Among) -> FlowMap:
        """The same map of the questions that full attention answers right, or wrong, alone.

        One whose right answer is not known is in neither.
        """
        if which == "all":
            return self
        if which not in ("right", "wrong"):
            raise FlowError(f"questions are all, right or wrong, not {which!r}")
        return replace(self, samples=tuple(one for one in self.samples if one.right is (which == "right")))

    def curve(
        self,
        knockout: str,
        *,
        of: Of = "answer",
        among: Among = "right",
        seed: int = 0,
        resamples: int = RESAMPLES,
    ) -> Curve:
        """The mean relative change of a probability (paper, section 2.2; its figures are `among="right"`).

        Args:
            knockout: one of `knockouts`.
            of: the token that full attention answers with, or the letter of the right option.
            among: which questions.
            seed: of the bootstrap.
            resamples: of the clips.

        Raises:
            FlowError: the map has no such knockout.
        """
        return self._mean(knockout, lambda one: one.relative_change(of), among, seed, resamples)

    def accuracy_change(self, knockout: str, *, seed: int = 0, resamples: int = RESAMPLES) -> Curve:
        """The change of the accuracy among the questions that full attention answers right, in per cent (Tables 2, B).

        In a map of the style `to_layer` the centre L//2 is the paper's first half, in one of `from_layer` the centre
        L//2 + 1 its second half.

        Args:
            knockout: one of `knockouts`.
            seed: of the bootstrap.
            resamples: of the clips.

        Returns:
            The mean change [centre], of each question 0 or -100.

        Raises:
            FlowError: the map has no such knockout.
        """
        return self._mean(knockout, lambda one: (one.stays_right - 1) * 100, "right", seed, resamples)

    def bins(
        self, knockout: str, *, of: Of = "answer", among: Among = "right", width: int | None = None
    ) -> LayerBins:
        """The curve in bins of layers, from which the pathway's ranges follow (Table E).

        Args:
            knockout: one of `knockouts`.
            of: as in `curve`.
            among: as in `curve`.
            width: layers of a bin; by default the paper's 5, in models shallower than its own the same share.

        Raises:
            FlowError: not every layer was the centre of a window, or no question is left.
        """
        curve = self.curve(knockout, of=of, among=among, resamples=0)
        if curve.layers != tuple(range(1, self.num_layers + 1)):
            raise FlowError("bins need a map of every layer: leave out the setting `layers` of the trace")
        if not curve.questions:
            raise FlowError(
                f"no question is left for the bins of {knockout}: full attention answers none {among}"
            )
        return LayerBins.of(curve.mean.tolist(), width or bin_in(self.num_layers))

    def plot(
        self,
        ax: Any = None,
        *,
        knockouts: Sequence[str] = (),
        of: Of = "answer",
        among: Among = "right",
    ) -> Any:
        """Draws curves with their intervals.

        Args:
            ax: axes of matplotlib; by default those of a figure of its own.
            knockouts: whose curves; by default all.
            of: as in `curve`.
            among: as in `curve`.

        Returns:
            The axes.

        Raises:
            FlowError: the map has no such knockout.
        """
        axes = axes_of(ax)
        for place, knockout in enumerate(knockouts or self.knockouts):
            self.curve(knockout, of=of, among=among).draw(axes, style_of(knockout, place), knockout)
        draw_zero(axes, WINDOWS, "relative change of the probability (%)")
        axes.legend(fontsize="small", ncols=2)
        return axes

    def _repr_html_(self) -> str:
        return picture(self.plot().figure)

    def place(self, knockout: str) -> int:
        """The place of a knockout in the arrays. Raises FlowError that names the nearest one."""
        if knockout not in self.knockouts:
            raise FlowError(
                f"the map has no knockout {knockout!r}{nearest(knockout, self.knockouts)} (knockouts: "
                f"{', '.join(self.knockouts)})"
            )
        return self.knockouts.index(knockout)

    def _mean(
        self, knockout: str, value: Callable[[MapSample], Array], among: Among, seed: int, resamples: int
    ) -> Curve:
        place = self.place(knockout)
        rows = [(value(one)[place], one) for one in self.among(among).samples]
        kept = [(row, one) for row, one in rows if not np.isnan(row).any()]
        values = np.array([row for row, _ in kept], dtype=np.float64).reshape(len(kept), len(self.centres))
        clips = [one.clip or f"question {one.task} {one.doc_id}" for _, one in kept]
        mean, low, high = mean_by_clip(values, clips, seed=seed, resamples=resamples)
        return Curve(knockout, self.centres, mean, low, high, len(kept), len(set(clips)))


def mean_by_clip(
    values: Array, clips: Sequence[str], *, seed: int = 0, resamples: int = RESAMPLES
) -> tuple[Array, Array, Array]:
    """The mean over questions with its 95 % percentile bootstrap, in which whole clips are drawn.

    To draw n clips with replacement is one draw from a multinomial distribution, so the counts are drawn themselves.

    Args:
        values: [question, ...].
        clips: of each question.
        seed: of the draws.
        resamples: how many; 0 for no interval.

    Returns:
        Mean, low and high, each [...]; nan where there is no question, or but one clip.
    """
    shape = values.shape[1:]
    nothing = np.full(shape, np.nan)
    if not len(values):
        return nothing, nothing, nothing
    mean = values.mean(axis=0)
    names, of_clip = np.unique(np.asarray(clips), return_inverse=True)
    if len(names) < 2 or not resamples:
        return mean, nothing, nothing
    flat = values.reshape(len(values), -1)
    sums = np.zeros((len(names), flat.shape[1]))
    np.add.at(sums, of_clip, flat)
    sizes = np.bincount(of_clip)
    drawn = np.random.default_rng(seed).multinomial(
        len(names), np.full(len(names), 1 / len(names)), resamples
    )
    means = (drawn @ sums) / (drawn @ sizes)[:, None]
    low, high = np.percentile(means, [2.5, 97.5], axis=0)
    return mean, low.reshape(shape), high.reshape(shape)


def on_common_questions(maps: Sequence[FlowMap]) -> tuple[FlowMap, ...]:
    """The same maps of the questions that are in all of them, such as a VideoLLM's and its image-only base's (Fig 2).

    Raises FlowError where they have no question in common.
    """
    if not maps:
        return ()
    common = set.intersection(*({(one.task, one.doc_id) for one in each.samples} for each in maps))
    if not common:
        raise FlowError("the maps have no question in common, so they can't be compared")
    return tuple(
        replace(each, samples=tuple(one for one in each.samples if (one.task, one.doc_id) in common))
        for each in maps
    )


def bin_in(num_layers: int) -> int:
    """How many layers a bin has: the paper's 5, and in models shallower than its own the same share of the depth."""
    return PAPER_BIN if num_layers >= SHALLOWEST else scaled_to_depth(PAPER_BIN, num_layers)


def _relative(probability: Array, baseline: float) -> Array:
    if not baseline > 0:
        return np.full(probability.shape, np.nan)
    return (probability - baseline) / baseline * 100
