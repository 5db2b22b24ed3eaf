"""The language's reference, made of what its parser reads: names, ranges, controls, presets, and what texts mean."""

from __future__ import annotations

from collections.abc import Iterable

from lmms_flow.errors import FlowError
from lmms_flow.flow import CONTROLS, PRESETS, Flow
from lmms_flow.flow.files import KEYS
from lmms_flow.flow.knockout import NAMED, Knockout
from lmms_flow.flow.layers import WORDS
from lmms_flow.flow.layout import FIRST_FRAME, GROUPS, LAST_FRAME
from lmms_flow.flow.pathway import KINDS, NOWHERE
from lmms_flow.flow.presets import ALIASES

DEPTH = 32
EXAMPLES = (
    "video:question@6-20", "cross_frame@first_half", "video:last+last:last", "intra_frame@1-5/9-12", "frame.last:text",
    "blind", "blind@21-", "effective-llava-next-7b+video:gap@1-4", "mirrored:effective-llava-next-7b",
    "random:0.58:seed1",
)  # fmt: skip
MISTAKES = (
    "question:video",
    "video:qestion",
    "video:last@0-4",
    "video:last@9-3",
    "video -> last",
    "effective@3",
    "sham+blind",
)


def page() -> str:
    """The page in Markdown."""
    return "\n".join(
        [
            "# Reference of the language",
            "",
            "Made of the parser itself when this site was built. What words mean: [The flow language](language.md).",
            "",
            "## Groups",
            "",
            f"{_code(GROUPS)}, `frame.N`, `{FIRST_FRAME}`, `{LAST_FRAME}`, `frame.-N`. Without groups: {_code(NAMED)}.",
            "",
            "## Which rules there are",
            "",
            "A row is a source (keys), a column a target (queries). ✓ can be written, · lies above every diagonal.",
            "",
            *_table(
                ("source \\ target", *GROUPS), ((f"`{s}`", *(_can(s, t) for t in GROUPS)) for s in GROUPS)
            ),
            "",
            "## Ranges of layers",
            "",
            f"`6-20`, `21-`, `-16`, `7`, {_code(WORDS)}; several are joined by `/`. In a model of {DEPTH} layers:",
            "",
            *_table(
                ("written", "layers"), ((f"`{r}`", _layers(r)) for r in ("6-20", "21-", "-16", "7", *WORDS))
            ),
            "",
            "## Controls",
            "",
            *_table(
                ("written", "what it is"), ((f"`{c.written}`", c.meaning) for c in CONTROLS if c.is_flow)
            ),
            "",
            "## Presets",
            "",
            f"Each also with `-closed`. {_code(ALIASES)} stand for the preset of the checkpoint that is run.",
            "",
            *_table(
                ("preset", "layers", *(f"`{kind}`" for kind in KINDS), "checkpoints"),
                (
                    (
                        f"`{p.name}`",
                        str(p.layers),
                        p.cross_frame,
                        p.video_question,
                        p.question_last,
                        _code(p.checkpoints),
                    )
                    for p in PRESETS
                ),
            ),
            "",
            "## Files",
            "",
            f"Keys of a YAML file: {_code(KEYS)}. Under `pathway`: {_code(KINDS)}, each a range or `{NOWHERE}`.",
            "",
            "## What some texts mean",
            "",
            f"As rules, bound to {DEPTH} layers:",
            "",
            *_table(("text", "kind", "rules", "digest"), map(_meaning, EXAMPLES)),
            "",
            "## What is said of mistakes",
            "",
            *_table(("text", "error"), ((f"`{text}`", _mistake(text)) for text in MISTAKES)),
            "",
        ]
    )


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> list[str]:
    heads = list(head)
    lines = [heads, ["---"] * len(heads), *map(list, rows)]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]


def _code(words: Iterable[str]) -> str:
    return ", ".join(f"`{word}`" for word in words)


def _can(source: str, target: str) -> str:
    try:
        Knockout(source, target)
    except FlowError:
        return "·"
    return "✓"


def _layers(written: str) -> str:
    layers = Flow.load(f"video:last@{written}").rules[0].bind(DEPTH)
    return f"{layers[0]} to {layers[-1]}" if len(layers) > 1 else str(layers[0])


def _meaning(text: str) -> tuple[str, str, str, str]:
    flow = Flow.load(text)
    bound = flow.bind(flow.layers or DEPTH)
    return (
        f"`{text}`",
        flow.kind,
        _code(bound.rules()) or "drawn at random in each layer",
        f"`{bound.digest}`",
    )


def _mistake(text: str) -> str:
    try:
        Flow.load(text)
    except FlowError as error:
        return str(error).replace("<", "&lt;")
    raise AssertionError(f"{text} is a flow")
