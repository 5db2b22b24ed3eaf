"""Which of a decoder's layers pass information on in another way than by attention, in words and with their numbers."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile

from torch import nn

# A mechanism, what a module that does it is called (with underscores between words), and what it means for a cut.
# The first that fits counts: a short convolution stands inside many recurrent mixers.
MECHANISMS: tuple[tuple[str, re.Pattern[str], str], ...] = (
    (
        "recurrent",
        re.compile(
            r"(?:^|_)(?:mamba|ssm|rwkv|recurren|retention|(?:gated_?)?delta_?(?:net|rule|att)|linear_?att|lightning|"
            r"(?:rg_?)?lru|gla_)"
        ),
        "information passes through a state that no mask reaches",
    ),
    (
        "convolutional",
        re.compile(r"(?:^|_)(?:short_?conv|s?conv|canon|hyena)"),
        "information passes between neighbouring tokens, where no mask reaches it",
    ),
    (
        "cross-attention",
        re.compile(r"(?:^|_)(?:cross_?att|encoder_?att)"),
        "they read states beside the prompt's, which no flow names",
    ),
)
_MIXES_NOTHING = re.compile(r"(?:norm(?:_gated)?|mlp|embedding|activation|silu|gelu)$")
_WORDS = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


@dataclass(frozen=True)
class Found:
    """A mechanism in a layer: its name, what it means, and the module that shows it."""

    mechanism: str
    meaning: str
    module: str


def in_words(name: str) -> str:
    """A class name in small letters, with underscores between its words."""
    return _WORDS.sub("_", name).lower()


def mixes(name: str, kind: str) -> bool:
    """Whether a module's name or the name of its class is that of a mixer of tokens."""
    names = name.rsplit(".", 1)[-1].lower(), in_words(kind)
    return any(pattern.search(one) for _, pattern, _ in MECHANISMS for one in names)


def other_mechanisms(layers: Sequence[nn.Module]) -> str:
    """The layers that pass information on in another way than by attention, in one line; empty where none is seen."""
    found = {number: each for number, layer in enumerate(layers, 1) if (each := mechanism_of(layer))}
    if not found:
        return ""
    told = []
    for name in dict.fromkeys(each.mechanism for each in found.values()):
        numbers = [number for number, each in found.items() if each.mechanism == name]
        first = found[numbers[0]]
        one = len(numbers) == 1
        if name == "cross-attention":
            verb = "has cross-attention" if one else "have cross-attention"
        else:
            verb = f"is {name}" if one else f"are {name}"
        told.append(
            f"{len(numbers)} of {len(layers)} layers {verb} ({ranges(numbers)}; {first.module}): {first.meaning}"
        )
    return "; ".join(told)


def mechanism_of(layer: nn.Module) -> Found | None:
    """The first mechanism beside attention that is seen in a layer.

    The name of the whole model stands in front of its classes' and says nothing of a single one, unless the layer has
    no attention: what mixes tokens in it then is what the model is named after.
    """
    parts = [each for each in _named(layer) if not _MIXES_NOTHING.search(in_words(each[1]))]
    own = in_words(type(layer).__name__).split("_")
    others = in_words(parts[0][1]).split("_") if parts else []
    attends = any("att" in in_words(kind) for _, kind in parts)
    shared = takewhile(lambda both: both[0] == both[1], zip(own, others, strict=False)) if attends else ()
    of_the_model = "".join(f"{word}_" for word, _ in shared)
    for mechanism, pattern, meaning in MECHANISMS:
        for name, kind in parts:
            if pattern.search(name) or pattern.search(in_words(kind).removeprefix(of_the_model)):
                return Found(mechanism, meaning, f"{name}, a {kind}")
    return None


def ranges(numbers: Sequence[int]) -> str:
    """Numbers in order as ranges: "1-3, 5"; "1-3, 5-7, ..." where there are many."""
    spans: list[list[int]] = []
    for number in numbers:
        if spans and spans[-1][1] == number - 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    shown = ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in spans[:4])
    if len(numbers) == 1:
        return f"layer {shown}"
    return f"layers {shown}, ..." if len(spans) > 4 else f"layers {shown}"


def _named(layer: nn.Module) -> Iterator[tuple[str, str]]:
    for path, part in layer.named_modules():
        if part is not layer:
            yield path.rsplit(".", 1)[-1].lower(), type(part).__name__
