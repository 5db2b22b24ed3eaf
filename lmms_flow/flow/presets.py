"""The pathways that are known, by name and by checkpoint: the paper's (Table E(a)) and the bundled model's."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass

from ..errors import FlowError, nearest
from .controls import CONTROLS
from .knockout import NAMED
from .layout import Layout, prompt_layout
from .pathway import Pathway, kept_range

ALIASES = {"effective": False, "effective_closed": True}
UNVALIDATED = "unvalidated"
PAPER_SHARE = "paper"  # in `random:paper`: the share of the paper's own random control


@dataclass(frozen=True)
class Preset:
    """A model's effective pathway, the checkpoints it was found on, and the lengths of a usual prompt (the paper's).

    `from_paper`: whether the ranges are the paper's; otherwise this package found them, by the same rule.
    `random_share`: of all edges, what the random control of the paper's Table 3 cuts.
    """

    name: str
    layers: int
    cross_frame: str
    video_question: str
    question_last: str
    checkpoints: tuple[str, ...]
    prompt: dict[str, int]
    from_paper: bool = True
    random_share: float | None = None

    def pathway(self, closed: bool) -> Pathway:
        """The pathway in its released or its closed form."""
        cross_frame, video_question = kept_range(self.cross_frame), kept_range(self.video_question)
        return Pathway(cross_frame, video_question, kept_range(self.question_last), closed)

    def layout(self, num_tokens: int | None = None) -> Layout:
        """A prompt of the usual length for this model (8 frames), for counting edges without a model.

        With `num_tokens` it has as many frames as fit into that length; what is left goes to the question.
        """
        if num_tokens is None:
            return prompt_layout(**self.prompt)
        text = {
            name: size for name, size in self.prompt.items() if name not in ("frames", "tokens_per_frame")
        }
        per_frame = self.prompt["tokens_per_frame"]
        frames, left = divmod(num_tokens - 1 - sum(text.values()), per_frame)
        return prompt_layout(
            frames=frames, tokens_per_frame=per_frame, **text | {"question": text["question"] + left}
        )

    def scored_by(self, closed: bool) -> str:
        """Who has scored the released or the closed form on the checkpoint."""
        if not self.from_paper:
            return "this package, on flowbench"
        return f"nobody yet ({UNVALIDATED})" if closed else "the paper"


def _prompt(system: int, tokens_per_frame: int, gap: int, question: int, tail: int) -> dict[str, int]:
    return {
        "system": system,
        "frames": 8,
        "tokens_per_frame": tokens_per_frame,
        "gap": gap,
        "question": question,
        "tail": tail,
    }


PRESETS = (
    Preset(
        "effective-llava-next-7b", 32, "6-15", "6-20", "16-25",
        ("byminji/LLaVA-NeXT-7B-Video-FT", "llava-hf/llava-v1.6-vicuna-7b-hf"),
        _prompt(53, 144, 5, 41, 15),
        random_share=0.58,
    ),
    Preset(
        "effective-llava-next-13b", 40, "6-15", "6-20", "16-30",
        ("byminji/LLaVA-NeXT-13B-Video-FT", "llava-hf/llava-v1.6-vicuna-13b-hf"),
        _prompt(53, 144, 5, 41, 15),
        random_share=0.63,
    ),
    Preset(
        "effective-mini-internvl-4b", 32, "6-15", "6-20", "11-30",
        ("byminji/Mini-InternVL-4B-Video-FT", "OpenGVLab/Mini-InternVL-Chat-4B-V1-5"),
        _prompt(50, 256, 7, 40, 15),
        random_share=0.60,
    ),
    Preset(
        "effective-videollama3-7b", 28, "1-15", "6-20", "21-28",
        ("DAMO-NLP-SG/VideoLLaMA3-7B",),
        _prompt(3, 141, 1, 45, 21),
        random_share=0.42,
    ),
    Preset(  # scripts/flow_tiny/find_pathway.py
        "effective-flow-tiny", 12, "1-4", "3-8", "5-12",
        ("flow-tiny",),
        _prompt(18, 16, 3, 31, 12),  # the median of flowbench
        from_paper=False,
    ),
)  # fmt: skip
_CLOSED = "-closed"
PRESET_NAMES = tuple(name for preset in PRESETS for name in (preset.name, preset.name + _CLOSED))


def find_preset(name: str) -> tuple[Preset, bool] | None:
    """The preset of this name and whether its closed form is meant, or None."""
    closed = name.endswith(_CLOSED)
    base = name.removesuffix(_CLOSED)
    return next(((preset, closed) for preset in PRESETS if preset.name == base), None)


def preset_of(checkpoint: str) -> Preset | None:
    """The preset found on a checkpoint, by its repository id or its folder's name; never by its size.

    A folder that is a link is known by the name of what it points to as well.
    """
    return _preset_named(checkpoint) or (
        _preset_named(os.path.realpath(checkpoint)) if os.path.islink(checkpoint.rstrip("/")) else None
    )


def _preset_named(checkpoint: str) -> Preset | None:
    parts = [part.lower() for part in checkpoint.replace("\\", "/").split("/") if part]
    cached = [
        part.rsplit("--", 1)[-1] for part in parts if part.startswith("models--")
    ]  # the hub's cache folders
    names = {*parts[-1:], *cached}
    return next(
        (p for p in PRESETS if any(known.split("/")[-1].lower() in names for known in p.checkpoints)), None
    )


def resolve_alias(word: str, checkpoint: str | None) -> str:
    """The preset's name for `effective` or `effective_closed` on a checkpoint; any other word is returned as it is.

    Raises FlowError where no pathway of the checkpoint is known.
    """
    if word not in ALIASES:
        return word
    preset = preset_of(checkpoint) if checkpoint else None
    if preset is None:
        of = f"checkpoint {checkpoint!r}" if checkpoint else "a checkpoint that was not named"
        raise FlowError(
            f"flow {word!r}: no pathway is known for {of}. Name a preset ({', '.join(p.name for p in PRESETS)}) "
            "or write the ranges of your own into a .yaml file, see docs/language.md"
        )
    return preset.name + (_CLOSED if ALIASES[word] else "")


def paper_share(checkpoint: str | None) -> float:
    """The share that the paper's random control cuts on a checkpoint. Raises FlowError where the paper has none."""
    preset = preset_of(checkpoint) if checkpoint else None
    if preset is None or preset.random_share is None:
        of = f"checkpoint {checkpoint!r}" if checkpoint else "a checkpoint that was not named"
        raise FlowError(
            f"flow 'random:{PAPER_SHARE}': the paper gives no share for {of}; write one, such as random:0.58"
        )
    return preset.random_share


def is_known_for(words: Iterable[str], checkpoint: str) -> bool:
    """Whether what these words of a flow mean on a checkpoint is known: its pathway, the paper's share."""
    given, preset = set(words), preset_of(checkpoint)
    if given & set(ALIASES) and preset is None:
        return False
    return PAPER_SHARE not in given or (preset is not None and preset.random_share is not None)


def unknown_word(word: str) -> str:
    """The end of an error about a word that is no flow: the nearest valid one, if any is near."""
    return nearest(
        word,
        (
            *PRESET_NAMES,
            *ALIASES,
            *(control.name + ":" * control.takes_more for control in CONTROLS if control.is_flow),
            *NAMED,
            PAPER_SHARE,
        ),
    )
