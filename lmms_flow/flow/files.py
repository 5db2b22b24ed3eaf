"""Reads flows, whether they are written in a line or in a YAML file (docs/language.md has both)."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import yaml

from ..errors import FlowError, nearest
from .knockout import Rule, parse_rules
from .language import parse, parse_random
from .layers import LayerRange
from .pathway import KINDS, NOWHERE, Pathway, kept_range
from .random_cut import RandomCut
from .respelling import respelt
from .spec import FlowSpec

MAX_FILE_BYTES = 1 << 17
MAX_DEPTH = 50  # brackets in brackets; a flow needs two or three


def load(text: str | os.PathLike[str], checkpoint: str | None = None) -> FlowSpec:
    """Reads a flow from the one-line language, a preset's name or a path that ends in .yaml or .yml."""
    written = os.fspath(text) if isinstance(text, os.PathLike) else text
    if not isinstance(written, str):
        raise FlowError(f"a flow is a text or a path, not {written!r}")
    if is_file(written):
        return _load_file(Path(written), checkpoint)
    return parse(written, checkpoint)


def is_file(text: str) -> bool:
    """Whether a flow is written as the path of a file."""
    return text.lower().endswith((".yaml", ".yml"))


class _PlainLoader(yaml.SafeLoader):
    """YAML's safe loader, which besides takes no key twice, and no aliases.

    Of a key that stands twice the first would be lost without a word; a few lines of aliases of aliases mean billions
    of values.
    """

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(None, None, "aliases such as *name are not read", mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key, times in Counter(key for key in keys if isinstance(key, Hashable)).items():
            if times > 1:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} stands twice", node.start_mark
                )
        return super().construct_mapping(node, deep)


def _read(text: str) -> Any:
    """What a file says. Raises as yaml does, and ValueError where brackets are nested too deep for it to read soon."""
    depth = deepest = 0
    for bracket in re.findall(r"[\[\]{}]", text):
        depth += 1 if bracket in "[{" else -1
        deepest = max(deepest, depth)
    if deepest > MAX_DEPTH:
        raise ValueError(f"brackets are nested {deepest} deep")
    return yaml.load(text, Loader=_PlainLoader)  # a safe loader  # nosec B506


def _load_file(path: Path, checkpoint: str | None) -> FlowSpec:
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise FlowError(f"flow file {path}: the file is larger than 128 KiB, so it is no flow")
        content = _read(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise FlowError(f"flow file {path}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise FlowError(f"flow file {path}: the file is not UTF-8 text") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        at = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "syntax"
        raise FlowError(f"flow file {path}{at}: the file is not valid YAML ({problem})") from None
    except (
        ValueError,
        RecursionError,
    ) as error:  # a date that is none, a number too long, a nesting too deep
        raise FlowError(f"flow file {path}: can't be read as YAML ({str(error).splitlines()[0]})") from None
    if content is None:
        raise FlowError(f"flow file {path}: the file is empty; write pathway:, cut: or random: into it")
    if not isinstance(content, Mapping):
        raise FlowError(
            f"flow file {path}: expected keys such as name: and cut:, not {type(content).__name__}"
        )
    try:
        return _from_mapping(content, path, checkpoint)
    except FlowError as error:
        raise FlowError(f"flow file {path}: {error}") from None


KEYS = ("name", "comment", "layers", "pathway", "closed", "cut", "random")


def _from_mapping(content: Mapping[Any, Any], path: Path, checkpoint: str | None) -> FlowSpec:
    _check_keys(content, KEYS, "the file")
    kinds = [key for key in ("pathway", "cut", "random") if key in content]
    if len(kinds) != 1 and kinds != ["pathway", "cut"]:
        raise FlowError(
            "write one of pathway:, cut: and random:, or pathway: and what is cut beside it as cut:; this file has "
            f"{' and '.join(kinds) or 'none'}"
        )
    if "closed" in content and "pathway" not in kinds:
        raise FlowError("closed: can only stand beside pathway:")
    name, layers = content.get("name", path.stem), content.get("layers")
    if not isinstance(name, str) or not name:
        raise FlowError(f"name: must be a text, not {name!r}")
    if layers is not None and (not isinstance(layers, int) or isinstance(layers, bool) or layers < 1):
        raise FlowError(f"layers: must be the model's number of layers, not {layers!r}")
    text = str(path)
    rules = _cut(content["cut"]) if "cut" in content else ()
    if "pathway" in kinds:
        return FlowSpec("pathway", name, text, rules, (_pathway(content),), layers=layers)
    if kinds == ["cut"]:
        return FlowSpec("cuts", name, text, rules, layers=layers)
    return FlowSpec(
        "random", name, text, random=_random_mapping(content["random"], checkpoint), layers=layers
    )


def _check_keys(content: Mapping[Any, Any], valid: tuple[str, ...], where: str) -> None:
    for key in content:
        if key not in valid:
            raise FlowError(
                f"{where} has an unknown key {key!r}{nearest(str(key), valid)} (keys: {', '.join(valid)})"
            )


def _pathway(content: Mapping[Any, Any]) -> Pathway:
    ranges, closed = content["pathway"], content.get("closed", False)
    if not isinstance(ranges, Mapping):
        raise FlowError(f"pathway: needs the layer ranges of {', '.join(KINDS)}")
    if not isinstance(closed, bool):
        raise FlowError(f"closed: must be true or false, not {closed!r}")
    _check_keys(ranges, KINDS, "pathway")
    missing = [kind for kind in KINDS if kind not in ranges]
    if missing:
        raise FlowError(f"pathway: {missing[0]} is missing")
    kept = {kind: _yaml_layers(ranges[kind], f"pathway, {kind}") for kind in KINDS}
    return Pathway(kept["cross_frame"], kept["video:question"], kept["question:last"], closed)


def _yaml_layers(value: object, where: str) -> LayerRange | None:
    """YAML reads an unquoted 7 or -16 as a number: 7 is that layer, -16 means 1 to 16; `none` is no layer."""
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise FlowError(
            f"{where}: the layers {value!r} are no range: write one such as 6-20, or {NOWHERE} for no layer"
        )
    try:
        return kept_range(str(value))
    except FlowError as error:
        raise FlowError(f"{where}: {error}{nearest(str(value), (NOWHERE,))}") from None


def _cut(rules: object) -> tuple[Rule, ...]:
    if not isinstance(rules, list) or not rules:
        raise FlowError('cut: needs a list of rules, such as ["video:question@21-", "video:last"]')
    for rule in rules:
        if not isinstance(rule, str):
            raise FlowError(f'cut: the rule {rule!r} must be a text; quote it: "video:last"')
    return tuple(each for rule in rules for each in _rules(rule))


def _rules(text: str) -> tuple[Rule, ...]:
    try:
        return parse_rules(text)
    except FlowError:
        meant = respelt(text, parse_rules)
        if meant is None:
            raise
        raise FlowError(f"rule {text!r} is not spelt as rules are: write {meant}") from None


def _random_mapping(random: object, checkpoint: str | None) -> RandomCut:
    if not isinstance(random, Mapping):
        raise FlowError("random: must be written as {share: 0.58, seed: 1}")
    _check_keys(random, ("share", "preset", "seed"), "random")
    seed = random.get("seed", 0)
    if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
        raise FlowError(f"random, seed: must be a whole number from 0, not {seed!r}")
    if ("share" in random) == ("preset" in random):
        raise FlowError("random: needs either share: or preset:")
    amount = random.get("share", random.get("preset"))
    if isinstance(amount, bool) or not isinstance(amount, int | float | str):
        raise FlowError(f"random: {amount!r} is neither a share nor a preset")
    return parse_random(f"random:{amount}:seed{seed}", checkpoint)
