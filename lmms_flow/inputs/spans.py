"""Which tokens of an expanded video belong to which of its frames, by what stands between its visual tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from lmms_flow.errors import SampleError


@dataclass(frozen=True)
class Replaced:
    """A placeholder and what a processor put into its place: `start` to `stop` are characters of the expanded text."""

    at: int  # in the text before
    text: str
    replacement: str
    start: int
    stop: int

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Replaced:
        """From an entry of a processor's `text_replacement_offsets`."""
        start, stop = told["new_span"]
        return cls(told["span"][0], told["text"], told["replacement"], start, stop)


def expand(text: str, replaced: Sequence[Replaced]) -> str:
    """A text with everything replaced."""
    parts, at = [], 0
    for each in replaced:
        parts += [text[at : each.at], each.replacement]
        at = each.at + len(each.text)
    return "".join([*parts, text[at:]])


def unit_spans(video: range, runs: Sequence[range], words: Sequence[str]) -> tuple[range, ...]:
    """The tokens of each frame, or of each group of frames that was merged.

    A frame is its visual tokens and the text around them. Of the text between two frames, what also follows the last
    one (a closing mark, with some families the time) belongs to the first of the two, the rest to the second; numbers
    count as equal.

    Args:
        video: the places of the video's tokens.
        runs: the places from the first visual token of each unit to its last one.
        words: the text of each token of the prompt.

    Returns:
        A range of places a unit; together they are `video`.
    """
    closing = _atoms(words[runs[-1].stop : video.stop])
    edges = [one.stop + _shared(closing, words[one.stop : other.start]) for one, other in pairwise(runs)]
    return tuple(range(*span) for span in zip([video.start, *edges], [*edges, video.stop], strict=True))


def visual_runs(visual: Sequence[int], count: int, trailing: int = 0) -> list[range]:
    """The places of each of `count` units: runs of visual tokens, or equal shares of a single run.

    Args:
        visual: the places of visual tokens, in order.
        count: of units.
        trailing: visual tokens at the end that belong to no frame of the grid; the last unit takes them.

    Raises:
        SampleError: they can't be shared out so.
    """
    runs = _runs(visual)
    if len(runs) == count:
        return runs
    size, rest = divmod(len(visual) - trailing, count) if count else (0, 1)
    if len(runs) != 1 or rest or not size:
        raise SampleError(
            f"{len(visual)} visual tokens in {len(runs)} runs can't be shared out among {count} frames: this family "
            "needs a chat of its own (docs/adding-a-model.md)"
        )
    (run,) = runs
    starts = [run.start + size * at for at in range(count)]
    return [range(*span) for span in zip(starts, [*starts[1:], run.stop], strict=True)]


def _runs(places: Sequence[int]) -> list[range]:
    """Places that follow one another."""
    runs: list[range] = []
    for place in places:
        if runs and runs[-1].stop == place:
            runs[-1] = range(runs[-1].start, place + 1)
        else:
            runs.append(range(place, place + 1))
    return runs


def _atoms(words: Sequence[str]) -> list[tuple[str, int]]:
    """Words with the number of tokens of each; digits that follow one another are one word, whichever they are."""
    atoms: list[tuple[str, int]] = []
    for word in words:
        if word.strip().isdigit():
            if atoms and atoms[-1][0] == "0":
                atoms[-1] = ("0", atoms[-1][1] + 1)
            else:
                atoms.append(("0", 1))
        else:
            atoms.append((word, 1))
    return atoms


def _shared(closing: Sequence[tuple[str, int]], words: Sequence[str]) -> int:
    """How many tokens at the beginning of `words` are those of `closing`."""
    count = 0
    for (one, _), (other, size) in zip(closing, _atoms(words), strict=False):
        if one != other:
            break
        count += size
    return count
