"""What a trace reads out of each question: the kinds, and for a map which edges are cut in which windows of layers.

It stands here and not beside what it drives, since the tasks read it before torch is loaded.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from ..errors import FlowError, nearest
from .knockout import Knockout
from .layers import LayerRange

MAP, GENERATION_PROBABILITY, LOGIT_LENS, ATTENTION = (
    "map",
    "generation_probability",
    "logit_lens",
    "attention",
)
KINDS = (MAP, GENERATION_PROBABILITY, LOGIT_LENS, ATTENTION)
WORDS = (
    "words"  # the flow of single words of a generated answer: a kind that stands alone, and no part of `all`
)
STYLES = ("center", "inverse", "from_layer", "to_layer")
RESTORE = "restore"
# What a map does to the edges: cut in the scores, cut behind the softmax, given back in the clip played backwards.
HOW = ("before_softmax", "after_softmax", RESTORE)
AUTO = "auto"

# The paper's figures of knockouts: 2; 3; 7; 8; and the last, which it plots without code.
TARGET_SETS: Mapping[str, tuple[str, ...]] = {
    "cross_frame": ("cross_frame",),
    "video_question_last": ("video:question", "video:last", "question:last", "last:last"),
    "options_to_last": ("stem:last", "true_option:last", "false_options:last"),
    "video_to_true_option": ("video:stem", "stem:true_option", "video:true_option"),
    "video_to_false_options": ("video:stem", "stem:false_options", "video:false_options"),
}
# Its figure of generated answers (D); no part of a map of questions, in whose prompts no answer has begun.
OPEN_ENDED = ("video:question", "video:answer", "video:last", "question:last", "answer:last")
# What the paper's scripts call them.
PAPER_NAMES: Mapping[str, str] = {
    "cross-frame": "cross_frame",
    "vql-to-ql": "video_question_last",
    "question-and-options-to-last": "options_to_last",
    "vq-to-true-opt": "video_to_true_option",
    "vq-to-false-opt": "video_to_false_options",
}

PAPER_LAYERS = 32  # the depth that the paper's widths were chosen for
PAPER_WINDOW = 9  # layers that one knockout cuts; the same in its models of 28, 32 and 40
SHALLOWEST = 28


def scaled_to_depth(width: int, num_layers: int) -> int:
    """A number of layers of the paper's 32 in a model of another depth: rounded, one at the least."""
    return max(1, round(width * num_layers / PAPER_LAYERS))


@dataclass(frozen=True)
class TraceSettings:
    """The settings of a trace, checked.

    Args:
        kinds: what is read out, of `KINDS` in their order, or `WORDS` alone.
        knockouts: rules of the one-line language without layers; a target set's name stands for its rules. Of words
            they are the paper's five where none are said.
        window: how many layers a knockout cuts at once; None: the paper's 9, in models of fewer than its shallowest
            28 layers the same share of the depth.
        style: which layers are cut for a layer: `center`, a window around it; `inverse`, all but that window;
            `from_layer`, it and all later ones; `to_layer`, all up to it.
        layers: the layers that windows are centred on, as a range of the language.
        how: what a map does to the edges, of `HOW`.
        lens_layers: the layers that a lens reads, as a range of the language; `auto`: as many, evenly spread, as cost
            a fifth of a prefill.
        anchors: how many words of an answer are looked at, the first ones.
        words: which words count, in lower case; none: all of them.

    Raises:
        FlowError: one of these means nothing; it names the nearest word that does.
    """

    kinds: tuple[str, ...] = KINDS
    knockouts: tuple[str, ...] = tuple(TARGET_SETS)
    window: int | None = None
    style: str = "center"
    layers: str = "all"
    how: str = HOW[0]
    lens_layers: str = AUTO
    anchors: int = 3
    words: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "kinds", _kinds(self.kinds))
        own = OPEN_ENDED if WORDS in self.kinds and self.knockouts == tuple(TARGET_SETS) else self.knockouts
        object.__setattr__(self, "knockouts", _knockouts(own))
        object.__setattr__(self, "window", _window(self.window))
        if self.style not in STYLES:
            raise FlowError(
                f"there is no style {self.style!r}{nearest(str(self.style), STYLES)} (styles: {', '.join(STYLES)})"
            )
        object.__setattr__(self, "layers", _layers(self.layers))
        if self.how not in HOW:
            raise FlowError(
                f"there is no how {self.how!r}{nearest(str(self.how), HOW)} (how: {', '.join(HOW)})"
            )
        object.__setattr__(self, "anchors", _count(self.anchors, "anchors"))
        object.__setattr__(self, "words", tuple(word.lower() for word in _some_words(self.words)))
        if self.lens_layers != AUTO:
            object.__setattr__(self, "lens_layers", _layers(self.lens_layers))

    @classmethod
    def from_mapping(cls, values: object) -> TraceSettings:
        """The settings as a YAML or `--model_args` have them; a name or a list of names alone are the kinds.

        Raises FlowError for a word that is none.
        """
        return cls(**written(values))

    @classmethod
    def from_text(cls, text: str) -> TraceSettings:
        """Reads what `to_text` wrote. Raises FlowError for anything else."""
        try:
            values = json.loads(text)
        except ValueError:
            raise FlowError(f"the settings of a trace can't be read: {text[:80]!r}") from None
        return cls.from_mapping(values)

    def to_text(self) -> str:
        """The settings in JSON, the same for the same meaning. Without a map it says nothing of knockouts.

        Of how the edges are cut it speaks where it is not the paper's way: what is journalled so far stays valid.
        """
        values: dict[str, Any] = {"kinds": list(self.kinds)}
        if MAP in self.kinds or WORDS in self.kinds:
            values |= {"knockouts": list(self.knockouts), "window": self.window}
            values |= {"style": self.style, "layers": self.layers}
            values |= {} if self.how == HOW[0] or WORDS in self.kinds else {"how": self.how}
        if LOGIT_LENS in self.kinds:
            values["lens_layers"] = self.lens_layers
        if WORDS in self.kinds:
            values |= {"anchors": self.anchors, "words": list(self.words)}
        return json.dumps(values, separators=(",", ":"))

    def with_arguments(self, own: object, more: Mapping[str, Any], where: str) -> TraceSettings:
        """These settings with those of `--model_args`, which tell what the task left unsaid.

        Args:
            own: the settings as the task wrote them.
            more: those of `--model_args`.
            where: the task, for an error.

        Raises:
            FlowError: both say the same thing differently.
        """
        said, settings = written(own), self
        for name, value in more.items():
            changed = replace(self, **{name: value})
            if name in said and getattr(changed, name) != getattr(self, name):
                raise FlowError(
                    f"{where} says {name} {said[name]!r} and --model_args trace_{name}={value}: leave out one"
                )
            settings = replace(settings, **{name: value})
        return settings

    def window_in(self, num_layers: int) -> int:
        """How many layers a knockout cuts in a model of this depth."""
        if self.window is not None:
            return self.window
        return PAPER_WINDOW if num_layers >= SHALLOWEST else scaled_to_depth(PAPER_WINDOW, num_layers)

    def centres(self, num_layers: int) -> tuple[int, ...]:
        """The layers that windows are centred on. Raises FlowError for one that does not exist."""
        return tuple(LayerRange(self.layers).bind(num_layers))

    def lens_layers_in(self, num_layers: int) -> tuple[int, ...] | None:
        """The layers that a lens reads; None for `auto`. Raises FlowError for one that does not exist."""
        return None if self.lens_layers == AUTO else tuple(LayerRange(self.lens_layers).bind(num_layers))

    @property
    def restores(self) -> bool:
        """Whether a second run is needed, of the clip played backwards."""
        return MAP in self.kinds and self.how == RESTORE

    @property
    def groups(self) -> frozenset[str]:
        """The groups whose tokens must be known before it can run."""
        named: set[str] = set()
        if MAP in self.kinds or WORDS in self.kinds:
            named |= {group for each in self.knockouts for group in as_knockout(each).groups()}
        if LOGIT_LENS in self.kinds:
            named |= {"video"}
        if ATTENTION in self.kinds:
            named |= {"video", "question"}
        if GENERATION_PROBABILITY in self.kinds:
            named |= {"options"}
        return frozenset(named)


def as_knockout(text: str) -> Knockout:
    """A rule without layers, such as "video:question". Raises FlowError."""
    source, colon, target = text.partition(":")
    return Knockout(source, target if colon else None)


def written(values: object) -> dict[str, Any]:
    """The settings that somebody wrote, by their names. Raises FlowError for a name that is none."""
    if values is None:
        return {}
    if isinstance(values, str) or (isinstance(values, Iterable) and not isinstance(values, Mapping)):
        return {"kinds": values}
    if not isinstance(values, Mapping):
        raise FlowError(f"a trace is a kind, a list of kinds, or settings by name, not {values!r}")
    known = [item.name for item in fields(TraceSettings)]
    for name in values:
        if name not in known:
            raise FlowError(
                f"a trace has no setting {name!r}{nearest(str(name), known)} (settings: {', '.join(known)})"
            )
    return {str(name): value for name, value in values.items()}


def _words(value: object, what: str) -> list[str]:
    """A list of words, or one text in which they are joined by `+`."""
    given: list[object] = [value]
    if isinstance(value, str):
        given = list(value.split("+"))
    elif isinstance(value, Iterable):
        given = list(value)
    words = [word.strip() for word in given if isinstance(word, str) and word.strip()]
    if not words or len(words) < len(given):
        raise FlowError(f"{what} are a list of names, or names joined by '+', not {value!r}")
    return words


def _kinds(value: object) -> tuple[str, ...]:
    words = _words(value, "the kinds of a trace")
    if words == [WORDS]:
        return (WORDS,)
    for word in words:
        if word == WORDS:
            raise FlowError(
                "the kind 'words' stands alone: it asks for a longer answer than the other kinds read"
            )
        if word != "all" and word not in KINDS:
            known = (*KINDS, WORDS)
            raise FlowError(
                f"there is no kind of trace {word!r}{nearest(word, known)} (kinds: {', '.join(known)}, or all)"
            )
    return tuple(kind for kind in KINDS if kind in words or "all" in words)


def _knockouts(value: object) -> tuple[str, ...]:
    found: list[str] = []
    for word in _words(value, "the knockouts of a trace"):
        name = PAPER_NAMES.get(word, word)
        if word in ("open_ended", "vqrl-to-qrl"):
            found += OPEN_ENDED
            continue
        found += TARGET_SETS.get(name) or (_rule(word),)
    return tuple(dict.fromkeys(found))


def _rule(word: str) -> str:
    if "@" in word:
        rule = word.partition("@")[0]
        raise FlowError(
            f"knockout {word!r}: a map cuts in every window of layers, so write {rule} without '@'"
        )
    sets = [*TARGET_SETS, *PAPER_NAMES]
    if ":" not in word:
        raise FlowError(
            f"there is no knockout {word!r}{nearest(word, sets)} (write source:target or a target set: "
            f"{', '.join(TARGET_SETS)})"
        )
    return str(as_knockout(word))


def _window(value: object) -> int | None:
    if value is None or value == "auto":
        return None
    text = str(value).strip()
    if isinstance(value, bool) or not (text.isascii() and text.isdigit() and len(text) < 6) or int(text) < 1:
        raise FlowError(f"a window is a whole number of layers from 1, or auto, not {value!r}")
    return int(text)


def _count(value: object, what: str) -> int:
    text = str(value).strip()
    if isinstance(value, bool) or not (text.isascii() and text.isdigit() and len(text) < 6) or int(text) < 1:
        raise FlowError(f"{what} are a whole number from 1, not {value!r}")
    return int(text)


def _some_words(value: object) -> list[str]:
    return [] if value in ((), [], None, "") else _words(value, "the words of an answer")


def _layers(value: object) -> str:
    """A range as the language has it; YAML reads an unquoted 7 or -16 as a number."""
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise FlowError(f"the layers of a trace are a range such as 6-20, not {value!r}")
    return LayerRange(str(value)).text
