"""The fewest rules that cut what a set of knockouts cuts: what is said twice, or in more words, means the same."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

from .knockout import CROSS_FRAME, Knockout
from .layout import ANSWER, BASE_GROUPS, QUESTION_PARTS, TEXT, TEXT_GROUPS, frame_number

Pair = tuple[str, str | None]  # source and target; no target for a rule with a name


@lru_cache(maxsize=1024)  # most layers of a flow are alike
def essential(cuts: frozenset[Knockout]) -> tuple[str, ...]:
    """The rules in their order: `text` in its groups, none that lies inside another.

    Two sets have the same ones exactly if they cut the same edges of every prompt and of what is generated. Where
    single frames are cut off from frames they may differ all the same (`video:frame.0` is `frame.0:frame.0`).
    """
    spelt = {pair for cut in cuts for pair in _in_base_groups(cut.source, cut.target)}
    fewest = (pair for pair in spelt if not any(_inside(pair, other) for other in spelt if other != pair))
    return tuple(sorted(source if target is None else f"{source}:{target}" for source, target in fewest))


def _in_base_groups(source: str, target: str | None) -> Iterator[Pair]:
    """A rule of `text` as those of its groups, without the ones that lie above the diagonal.

    A source for the whole `answer` stays in one piece, since generated tokens don't read `last` then either.
    """
    if target is None or (source != TEXT and target != TEXT) or target == ANSWER:
        yield source, target
        return
    sources = TEXT_GROUPS if source == TEXT else (source,)
    targets = TEXT_GROUPS if target == TEXT else (target,)
    for s in sources:
        for t in targets:
            if _base_of(s) is None or _base_of(t) is None or _rank(s) <= _rank(t):
                yield s, t


def _base_of(name: str) -> str | None:
    """The base group in which a group lies; None for one of the user's own, which may lie anywhere."""
    if name in BASE_GROUPS:
        return name
    if frame_number(name) is not None:
        return "video"
    return "question" if name in QUESTION_PARTS else "tail" if name == ANSWER else None


def _rank(name: str) -> int:
    return BASE_GROUPS.index(_base_of(name) or name)


def _inside(pair: Pair, other: Pair) -> bool:
    """Whether the other cuts all that this one cuts, whatever the prompt."""
    (source, target), (wider_source, wider_target) = pair, other
    if wider_target is None:
        return wider_source == CROSS_FRAME and target is not None and _earlier_frame(source, target)
    if target is None:
        return other == ("video", "video")
    # What is cut from `answer` is cut from generated tokens as well; what is cut from `tail` is not.
    into = target == wider_target or (target != ANSWER and _is_part(target, wider_target))
    return into and _is_part(source, wider_source)


def _is_part(name: str, whole: str) -> bool:
    return name == whole or _base_of(name) == whole or (whole == TEXT and name in TEXT_GROUPS)


def _earlier_frame(source: str, target: str) -> bool:
    """Whether the source is an earlier frame than the target in every prompt that has both."""
    first, second = frame_number(source), frame_number(target)
    return first is not None and second is not None and (first < 0) == (second < 0) and first < second
