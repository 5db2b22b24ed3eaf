"""The one-line language of flows (docs/language.md has the grammar)."""

from __future__ import annotations

import math
import re

from ..errors import FlowError, nearest
from .controls import BLIND, FRAME_ORDERS, MIRRORED, NONE, RANDOM, SHAM, SINGLE_FRAME, control_of
from .knockout import NAMED, Knockout, Rule, parse_layers, parse_rules
from .pathway import Pathway
from .presets import (
    ALIASES,
    PAPER_SHARE,
    PRESET_NAMES,
    find_preset,
    paper_share,
    preset_of,
    resolve_alias,
    unknown_word,
)
from .random_cut import RandomCut
from .respelling import respelt
from .spec import FlowSpec

_BLIND = tuple(Knockout("video", target) for target in ("gap", "question", "tail", "last"))


def parse(text: str, checkpoint: str | None = None) -> FlowSpec:
    """Reads the one-line language. Raises FlowError quoting the rule that is wrong, or with what was meant."""
    if not text:
        raise FlowError("the flow is empty: write none for full attention")
    try:
        return _parse(text, checkpoint)
    except FlowError:
        meant = respelt(text, lambda candidate: _parse(candidate, checkpoint))
        if meant is None:
            raise
        raise FlowError(f"flow {text!r} is not spelt as flows are: write {meant}") from None


def _parse(text: str, checkpoint: str | None) -> FlowSpec:
    strange = re.search(r"[^\w:@+.\-/]", text, re.ASCII)
    if strange:
        raise FlowError(f"flow {text!r}: {strange[0]!r} can't stand in a flow (join rules by '+', no spaces)")
    control = control_of(text)
    if control is NONE:
        return FlowSpec("none", text, text)
    if control is SHAM:
        return FlowSpec("sham", text, text)
    if control is BLIND:
        return FlowSpec("cuts", text, text, rules=tuple(map(Rule, _BLIND)))
    if control is MIRRORED:
        return _mirrored(text, checkpoint)
    if control is RANDOM:
        return FlowSpec("random", text, text, random=parse_random(text, checkpoint))
    return _terms(text, checkpoint)


def _terms(text: str, checkpoint: str | None) -> FlowSpec:
    terms = text.split("+")
    rules: list[Rule] = []
    pathways: list[Pathway] = []
    layers: int | None = None
    for term in terms:
        if not term:
            raise FlowError(f"flow {text!r}: a rule is missing beside a '+'")
        word, at, _ = term.partition("@")
        if at and control_of(word) is BLIND:
            rules += [Rule(cut, each) for each in parse_layers(term) for cut in _BLIND]
            continue
        if control_of(word):
            more = f" (write {word}@all to join it)" if word == BLIND.name else ""
            raise FlowError(f"flow {text!r}: {word!r} must stand alone: it takes no '+' and no '@'{more}")
        if at and (word in ALIASES or find_preset(word)):
            raise FlowError(f"rule {term!r}: a preset takes no layers, they are part of it")
        preset = find_preset(resolve_alias(word, checkpoint))
        if preset is None:
            rules += _rules(term, text)
            continue
        own = preset_of(checkpoint) if checkpoint else None
        if own not in (None, preset[0]):
            raise FlowError(
                f"flow {text!r}: {preset[0].name} is the pathway of {preset[0].checkpoints[0]}, this checkpoint's is "
                f"{own.name}; to run it all the same, write its ranges into a .yaml file"
            )
        if layers not in (None, preset[0].layers):
            raise FlowError(f"flow {text!r} joins presets for {layers} and for {preset[0].layers} layers")
        layers = preset[0].layers
        pathways.append(preset[0].pathway(preset[1]))
    name = resolve_alias(text, checkpoint) if text in ALIASES else text
    if len(pathways) == 1 and not rules:
        return FlowSpec("pathway", name, text, pathways=tuple(pathways), layers=layers)
    return FlowSpec("cuts", name, text, tuple(rules), tuple(pathways), layers=layers)


def _rules(term: str, text: str) -> tuple[Rule, ...]:
    word = term.partition("@")[0]
    if word == SINGLE_FRAME.name:
        raise FlowError(
            f"flow {text!r}: it is no flow but full attention of one frame: run the task that ends in _{word}, or "
            "num_frames=1 in --model_args"
        )
    if word in {order.name for order in FRAME_ORDERS}:
        raise FlowError(
            f"flow {text!r}: it is no flow but an order of frames: write flow=none and frame_order={word}"
        )
    if ":" not in word and word not in NAMED:
        raise FlowError(f"flow {text!r}: {word!r} is no rule, preset or control{unknown_word(word)}")
    return parse_rules(term)


def _mirrored(text: str, checkpoint: str | None) -> FlowSpec:
    name = resolve_alias(text.removeprefix("mirrored:"), checkpoint)
    preset = find_preset(name)
    if preset is None:
        raise FlowError(
            f"flow {text!r}: mirrored needs a preset, and {_not_a_preset(name)} (write mirrored:effective)"
        )
    base = preset[0].pathway(preset[1])
    pathway = Pathway(base.cross_frame, base.video_question, base.question_last, base.closed, mirrored=True)
    return FlowSpec("pathway", f"mirrored:{name}", text, pathways=(pathway,), layers=preset[0].layers)


def parse_random(text: str, checkpoint: str | None) -> RandomCut:
    """Reads `random:0.58:seed1` or `random:effective`. Raises FlowError that quotes the flow."""
    amount, colon, seed = text.removeprefix("random:").partition(":")
    if colon and not re.fullmatch(r"seed[0-9]{1,18}", seed):
        raise FlowError(f"flow {text!r}: {seed!r} is no seed: write random:{amount}:seed1")
    number = int(seed[len("seed") :]) if colon else 0
    if amount in ALIASES or find_preset(amount):
        return RandomCut(number, like=resolve_alias(amount, checkpoint))
    if amount == PAPER_SHARE:
        return RandomCut(number, share=paper_share(checkpoint))
    try:
        return RandomCut(number, share=_share(float(amount), text))
    except ValueError as error:
        if isinstance(error, FlowError):
            raise
        raise FlowError(
            f"flow {text!r}: random needs a share such as 0.58 or a preset, and {_not_a_preset(amount)}"
        ) from None


def _not_a_preset(word: str) -> str:
    """What a word is that stands where a preset should."""
    control = control_of(word)
    if control is not None:
        return f"{word!r} is a control, which stands alone"
    return f"{word!r} is not one{nearest(word, (*PRESET_NAMES, *ALIASES, PAPER_SHARE))}"


def _share(share: float, where: str) -> float:
    if not (math.isfinite(share) and 0 < share < 1):
        raise FlowError(
            f"flow {where!r}: the share of edges that random cuts lies between 0 and 1, not {share:g}"
        )
    return share
