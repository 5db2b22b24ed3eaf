"""Readers of what people write: the one-line language, a flow's YAML, a prompt with its document."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

import yaml

from lmms_flow.flow import PRESET_NAMES, Flow, Layout, prompt_layout
from lmms_flow.flow.layout import GROUPS
from lmms_flow.inputs.groups import EncodedPrompt, find_groups
from scripts.fuzz.strange import changed, flipped, text, value

WORDS = (
    *GROUPS, *PRESET_NAMES, *("frame.0", "frame.last", "frame.-1", "frame.999999", "cross_frame", "intra_frame"),
    *("none", "sham", "blind", "mirrored:", "random:", "0.58", ":seed1", "paper", "effective", "effective_closed"),
    *(":", ":", ":", "+", "+", "@", "@", "/", "-", "1-4", "6-20", "2-", "-3", "all", "first_half"),
    *("second_half", ".yaml"),
)  # fmt: skip
LAYOUTS = (
    prompt_layout(system=3, frames=3, tokens_per_frame=2, gap=2, question=6, tail=2),
    prompt_layout(system=0, frames=1, tokens_per_frame=1, gap=0, question=0, tail=0),
    Layout(4, {"system": range(3), "last": range(3, 4)}),
)
CHECKPOINTS = (None, "flow-tiny", "byminji/LLaVA-NeXT-7B-Video-FT", "..//\\", "")


def language(rng: Random, _: Path) -> None:
    """A line of the language, half of them by its grammar, bound to a depth and resolved on a prompt."""
    line = "+".join(rule(rng) for _ in range(rng.randint(1, 4))) if rng.random() < 0.5 else text(rng, WORDS)
    flow = Flow.load(line, checkpoint=rng.choice(CHECKPOINTS))
    bound = flow.bind(rng.choice((1, 2, 5, 12, 32)))
    assert len(bound.digest) == 12
    kept, total = bound.resolve(rng.choice(LAYOUTS)).kept_edges()
    assert 0 <= kept <= total


def rule(rng: Random) -> str:
    """A rule by the grammar, of groups that a prompt may lack."""
    source, target = sorted(rng.sample(GROUPS, 2), key=GROUPS.index)
    layers = rng.choice(("", "", "@1", "@1-2", "@-2/4-", "@first_half", "@2-"))
    return (
        rng.choice((f"{source}:{target}", f"{source}:{source}", "cross_frame", "intra_frame", "frame.0:last"))
        + layers
    )


FILES = tuple(
    yaml.safe_load(line)
    for line in (
        '{name: a, layers: 32, pathway: {cross_frame: 6-15, "video:question": 6-20, "question:last": 16-25}}',
        '{name: b, pathway: {cross_frame: 1-4, "video:question": 5-6, "question:last": 7-12}, cut: ["video:gap@3-"]}',
        '{name: c, comment: words, cut: ["video:question@21-", "video:last"]}',
        "{name: d, random: {share: 0.58, seed: 1}}",
        "{name: e, random: {preset: effective-llava-next-7b, seed: 1}}",
    )
)
HOSTILE = (
    "!!python/object/apply:os.system [touch PWNED]", "&a [*a, *a]", "a: &a [x,x]\nb: &b [*a,*a]\nc: [*b,*b]",
    "cut: !!binary abcd", "? [a]\n: b", "%YAML 9.9\n---\ncut: []", "2020-99-99", "cut: [video:last]\ncut: [blind]",
    "<<: *x", "\ufeffcut: ['video:last']", "cut: !!set {video:last}", "---\na: 1\n---\nb: 2", "{" * 5000, "- " * 3000,
)  # fmt: skip


def flow_yaml(rng: Random, folder: Path) -> None:
    """A flow's file, changed in its values or in its bytes."""
    file = folder / "flow.yaml"
    way = rng.randrange(4)
    if way == 0:
        content = rng.choice(HOSTILE).encode("utf-8", "surrogatepass")
    else:
        made = yaml.safe_dump(plain(changed(rng.choice(FILES), rng)), allow_unicode=True)
        content = made.encode("utf-8", "surrogatepass")
    file.write_bytes(flipped(content, rng) if way == 1 else content)
    Flow.load(file).bind(rng.choice((4, 12, 32))).resolve(LAYOUTS[0])


def plain(values: Any) -> Any:
    """Without what YAML can't write: half a surrogate pair, a digit limit of Python."""
    if isinstance(values, str):
        return values.encode("utf-8", "replace").decode()
    if isinstance(values, dict):
        return {plain(k): plain(v) for k, v in values.items()}
    return [plain(v) for v in values] if isinstance(values, list) else values


SENTENCES = (
    *(
        "Question:",
        "Options:",
        "(A) left",
        "(B) right",
        "(C)",
        "A. one",
        "B. two",
        "A: x",
        "B) y",
        "'A': 'b'",
        "\n",
        " ",
    ),
    *(
        "Which way does it move?",
        "Only give the best option.",
        "Answer with",
        "<image>",
        "A",
        "(",
        ")",
        ".",
        "\r\n",
        "\u2028",
    ),
    *("(Z) last", "The best answer is", "\n\n", "\t", "(A)", "(A)x (B)y (C)z"),
)
FLOWS = tuple(
    map(Flow.load, ("none", "video:last", "video:question", "true_option:last", "stem:last", "blind"))
)


def prompt(rng: Random, _: Path) -> None:
    """A prompt, the user's text that may be in it, and the document, whose fields may be anything."""
    asked = text(rng, SENTENCES, 14)
    shown = asked if rng.random() < 0.8 else text(rng, SENTENCES, 14)
    around = (text(rng, SENTENCES, 3), text(rng, SENTENCES, 3))
    whole = f"{around[0]}<video> USER: {shown} ASSISTANT:{around[1]}"
    doc: dict[str, Any] = {
        "candidates": ["left", "right"],
        "answer": "left",
        "answer_letter": "A",
        "option0": "x",
    }
    doc = {key: doc[key] for key in doc if rng.random() < 0.5}
    doc = changed(doc, rng) if rng.random() < 0.5 and doc else doc
    encoded = encode(whole, rng)
    found = find_groups(
        encoded, asked, doc if isinstance(doc, dict) else {"options": value(rng)}, rng.choice(FLOWS)
    )
    assert found.layout.num_tokens == len(encoded.input_ids)


def encode(whole: str, rng: Random) -> EncodedPrompt:
    """The text in tokens of a few characters each, the video's placeholder in six of them."""
    at, mark = whole.index("<video>"), len("<video>")
    offsets = list(cut(0, at, rng)) + [(at, at + mark)] * 6 + list(cut(at + mark, len(whole), rng))
    start = offsets.index((at, at + mark))
    frames = (range(start, start + 3), range(start + 3, start + 6))
    return EncodedPrompt(
        whole, tuple(range(len(offsets))), tuple(offsets), range(start, start + 6), frames, rng.random() < 0.5
    )


def cut(start: int, stop: int, rng: Random) -> list[tuple[int, int]]:
    size = rng.randint(1, 9)
    return [(at, min(at + size, stop)) for at in range(start, stop, size)]
