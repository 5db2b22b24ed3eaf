"""Which questions are asked of which clips.

A group is one text (stem, options, order) that is asked of several clips, of which equally many have each option
as the right answer. So whoever reads the text alone is right exactly once in as many times as there are options,
and in each letter equally often; and as the clips of a group share their middle frame, so is whoever sees that too.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from scripts.flowbench import specs
from scripts.flowbench.questions import COUNTS, Question, ask
from scripts.flowbench.specs import ACTIONS, COLOURS, DIRECTIONS, OPPOSITE, SCENES, Change, Clip, Motion

BENCHMARK_DOMAIN = "flowbench"  # begins every seed; the training stream's seeds begin otherwise


@dataclass(frozen=True)
class Group:
    """A question and its clips; each clip is followed by itself played backwards where `paired`."""

    question: Question
    clips: tuple[Clip, ...]
    paired: bool


def _paired(question: Question, clips: list[Clip]) -> Group:
    return Group(question, tuple(c for clip in clips for c in (clip, clip.backwards())), paired=True)


def _families_of_opposites(rng: Random, topic: str, all_values: tuple[str, ...], number: int) -> Group:
    """Two options: a value and its opposite. Four: all of them, of clips alike in everything else."""
    starts = (all_values[0], all_values[2])
    chosen = starts if number % 3 == 2 else (starts[number % 2],)
    clip: Motion | Change
    clip = specs.motion(rng, chosen[0]) if topic == "direction" else specs.change(rng, chosen[0])
    clips: list[Clip] = [type(clip)(**{**vars(clip), topic: value}) for value in chosen]
    return _paired(ask(rng, topic, [v for value in chosen for v in (value, OPPOSITE[value])]), clips)


def action_antonym(rng: Random, number: int) -> Group:
    return _families_of_opposites(rng, "action", ACTIONS, number)


def moving_direction(rng: Random, number: int) -> Group:
    return _families_of_opposites(rng, "direction", DIRECTIONS, number)


def action_sequence(rng: Random, number: int) -> Group:
    """Two to four options, all of them shown, each of them first (last) in equally many clips."""
    size = 2 + number % 3
    colours = rng.sample(COLOURS, size)
    orders: dict[int, list[tuple[int, ...]]] = {
        2: [(0, 1)],
        3: [(0, 1, 2), (1, 2, 0), (2, 0, 1)],
        4: [(0, 2, 3, 1), (2, 1, 0, 3)],
    }
    question = ask(rng, ("first", "last")[number // 3 % 2], colours)
    places, background = specs.spread(rng, size), rng.randrange(len(specs.BACKGROUNDS))
    clips: list[Clip] = [
        specs.parade(rng, [colours[i] for i in order], places, background) for order in orders[size]
    ]
    return _paired(question, clips)


def scene_transition(rng: Random, number: int) -> Group:
    """Two or four options: from one scene to another. Three: which scene came first (last)."""
    size = 2 + number % 3
    a, b, c, d = rng.sample(SCENES, 4)
    if size == 3:
        question = ask(rng, ("opening", "closing")[number // 3 % 2], [a, b, c])
        return _paired(question, [specs.scenery(rng, *two) for two in ((a, b), (b, c), (c, a))])
    changes = [(a, b)] if size == 2 else [(a, b), (c, d)]
    options = [f"{x}>{y}" for two in changes for x, y in (two, two[::-1])]
    return _paired(ask(rng, "transition", options), [specs.scenery(rng, *two) for two in changes])


def object_count(rng: Random, number: int) -> Group:
    """Two to four options, one clip of each number."""
    options = rng.sample(COUNTS, 2 + number % 3)
    background = rng.randrange(len(specs.BACKGROUNDS))
    clips = []
    for option in options:
        count = int(option)
        clips.append(specs.parade(rng, rng.sample(COLOURS, count), specs.spread(rng, count), background))
    return Group(ask(rng, "count", options), tuple(clips), paired=False)


NUM_GROUPS = {
    object_count: 36,
    scene_transition: 30,
    action_sequence: 30,
    moving_direction: 45,
    action_antonym: 45,
}


def all_groups(seed: int = 0) -> Iterator[tuple[str, int, Group]]:
    """(family, group's number in it, group), families in alphabetical order."""
    for make in sorted(NUM_GROUPS, key=lambda f: f.__name__):
        for number in range(NUM_GROUPS[make]):
            rng = Random(f"{BENCHMARK_DOMAIN}:{seed}:{make.__name__}:{number}")
            yield make.__name__, number, make(rng, number)
