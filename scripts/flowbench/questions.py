"""Wordings of questions and of answers. An answer is a value (a colour, a direction, ...); a style spells it."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from scripts.flowbench.specs import (
    ACTIONS,
    COLOURS,
    DIRECTIONS,
    SCENES,
    Change,
    Clip,
    Motion,
    Parade,
    Scenery,
)

FAMILIES = ("action_antonym", "moving_direction", "action_sequence", "scene_transition", "object_count")
COUNTS = ("1", "2", "3", "4")
LETTERS = "ABCD"

# What is asked of a clip -> the family that asks it.
TOPICS = {
    "action": "action_antonym",
    "direction": "moving_direction",
    "first": "action_sequence",
    "last": "action_sequence",
    "transition": "scene_transition",
    "opening": "scene_transition",
    "closing": "scene_transition",
    "count": "object_count",
}

STEMS = {
    "action": (
        "What does the shape do?",
        "What happens to the shape?",
        "What is the shape doing in this video?",
        "Which action does the video show?",
        "What happens in the video?",
    ),
    "direction": (
        "Which way does the shape move?",
        "In which direction does the shape move?",
        "Where is the shape going?",
        "What is the direction of the movement?",
        "In which direction does the object travel?",
    ),
    "first": (
        "What happened first?",
        "Which shape appeared first?",
        "What came first in the video?",
        "What was the first thing to appear?",
        "Which shape was shown at the start?",
    ),
    "last": (
        "What happened last?",
        "Which shape appeared last?",
        "What came last in the video?",
        "What was the last thing to appear?",
        "Which shape was shown at the end?",
    ),
    "transition": (
        "How does the scene change?",
        "What is the scene transition in the video?",
        "Which change of scene does the video show?",
        "From which scene to which scene does the video go?",
    ),
    "opening": (
        "Which scene came first?",
        "Where does the video start?",
        "Which scene is shown at the start?",
    ),
    "closing": (
        "Which scene came last?",
        "Where does the video end?",
        "Which scene is shown at the end?",
    ),
    "count": (
        "How many different shapes appeared?",
        "How many different things were shown?",
        "How many different shapes are there in the video?",
        "What is the number of different things in the video?",
    ),
}  # fmt: skip

_COUNT_WORDS = {"1": "one", "2": "two", "3": "three", "4": "four"}
_ACTION_FORMS = {
    "grow": ("It grows.", "Growing", "It gets bigger."),
    "shrink": ("It shrinks.", "Shrinking", "It gets smaller."),
    "open": ("It opens.", "Opening", "It opens its mouth."),
    "close": ("It closes.", "Closing", "It closes its mouth."),
}
NUM_STYLES = 3


def spell(topic: str, value: str, style: int) -> str:
    """The answer's text; a transition's value is two scenes joined by '>'."""
    if topic == "action":
        return _ACTION_FORMS[value][style]
    if topic == "direction":
        return (value.capitalize(), f"It moves {value}.", f"Towards the {_side(value)}")[style]
    if topic in ("first", "last"):
        return (value.capitalize(), f"The {value} one", f"A {value} shape appeared.")[style]
    if topic == "transition":
        first, last = value.split(">")
        return (
            f"From the {first} to the {last}",
            f"{first.capitalize()}, then {last}",
            f"The {first} becomes the {last}.",
        )[style]
    if topic in ("opening", "closing"):
        return (value.capitalize(), f"The {value}", f"In the {value}")[style]
    word = _COUNT_WORDS[value]
    return (value, word.capitalize(), f"There were {word}.")[style]


def _side(direction: str) -> str:
    return {"up": "top", "down": "bottom"}.get(direction, direction)


def values(topic: str) -> tuple[str, ...]:
    """All the answers that a topic can have."""
    return {
        "action": ACTIONS,
        "direction": DIRECTIONS,
        "first": COLOURS,
        "last": COLOURS,
        "transition": tuple(f"{a}>{b}" for a in SCENES for b in SCENES if a != b),
        "opening": SCENES,
        "closing": SCENES,
        "count": COUNTS,
    }[topic]


def answer_value(topic: str, clip: Clip) -> str:
    """The true answer. Raises ValueError where the topic does not fit the clip."""
    if isinstance(clip, Motion) and topic == "direction":
        return clip.direction
    if isinstance(clip, Change) and topic == "action":
        return clip.action
    if isinstance(clip, Parade) and topic in ("first", "last"):
        return clip.order[0 if topic == "first" else -1]
    if isinstance(clip, Parade) and topic == "count":
        return str(len(clip.order))
    if isinstance(clip, Scenery) and topic in ("opening", "closing"):
        return clip.first if topic == "opening" else clip.last
    if isinstance(clip, Scenery) and topic == "transition":
        return f"{clip.first}>{clip.last}"
    raise ValueError(f"{topic!r} is not asked of a {type(clip).__name__}")


@dataclass(frozen=True)
class Question:
    """One text: the same for every clip of its group."""

    topic: str
    stem: str
    options: tuple[str, ...]  # values, in the order of the letters
    style: int

    @property
    def candidates(self) -> tuple[str, ...]:
        return tuple(spell(self.topic, value, self.style) for value in self.options)

    @property
    def text(self) -> str:
        lines = [f"({letter}) {text}" for letter, text in zip(LETTERS, self.candidates, strict=False)]
        return "\n".join([f"Question: {self.stem}", "Options:", *lines])


def ask(rng: Random, topic: str, options: list[str]) -> Question:
    """A question with these options in random order and a random wording."""
    return Question(
        topic, rng.choice(STEMS[topic]), tuple(rng.sample(options, len(options))), rng.randrange(NUM_STYLES)
    )
