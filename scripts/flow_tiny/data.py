"""The training stream: step n of a seed is always the same batch, whatever ran before."""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from scripts.flow_tiny.model import IMAGE_SIDE, HeadSizes
from scripts.flow_tiny.text import ANSWER_PREFIX, BEFORE_VIDEO, GAP, SYSTEM, TAIL
from scripts.flowbench import specs
from scripts.flowbench.groups import all_groups
from scripts.flowbench.questions import (
    LETTERS,
    NUM_STYLES,
    TOPICS,
    Question,
    answer_value,
    ask,
    spell,
    values,
)
from scripts.flowbench.render import STEP, progress, render
from scripts.flowbench.specs import Change, Clip, Motion, Parade, Scenery

IGNORE = -100
SAMPLED = (1, 5, 9, 13, 17, 20, 24, 28)  # the midpoints of 8 segments of 32 frames
TRAINING_DOMAIN = "train"  # the benchmark's seeds begin with another word

ANSWERS = {value: i for i, value in enumerate(dict.fromkeys(v for topic in TOPICS for v in values(topic)))}
FRAME_FACTS = {"colour": 7, "x": 6, "y": 6, "radius": 6, "mouth": 6, "scene": 7}
STORY = {
    "direction": 4, "action": 4, "first": 6, "last": 6, "count": 4, "opening": 6, "closing": 6,
    "start_x": 6, "start_y": 6, "start_radius": 6, "start_mouth": 6,
}  # fmt: skip
SIZES = HeadSizes(FRAME_FACTS, STORY, len(ANSWERS), len(specs.COLOURS))
KIND_TOPICS: dict[type, tuple[str, ...]] = {
    Motion: ("direction",),
    Change: ("action",),
    Parade: ("first", "last", "count"),
    Scenery: ("transition", "transition", "opening", "closing"),
}


KINDS = ("motion", "change", "parade", "scenery")


@dataclass(frozen=True)
class Mixture:
    """What a step's batch is made of."""

    clips: int = 12
    branches: int = 2  # questions of each clip
    copies: int = 8  # texts with the answer told in words
    kinds: tuple[int, int, int, int] = (
        3,
        3,
        4,
        1,
    )  # how often each of KINDS is drawn; scenes are learned soonest
    open_share: float = 0.15  # of the questions, without options
    noise: float = 0.02  # of the pixels, standard deviation; white is 1
    counting: bool = (
        False  # every other question of a parade asks for the count, and the colours seen are trained
    )


# From which step on. What moves and what changes is learned first; then come counts and changes of scene.
CURRICULUM = {0: Mixture(), 1000: Mixture(kinds=(2, 2, 5, 3), counting=True)}


def random_clip(rng: Random, kinds: tuple[int, int, int, int] = Mixture.kinds) -> Clip:
    kind = rng.choices(KINDS, kinds)[0]
    if kind == "motion":
        return specs.motion(rng, rng.choice(specs.DIRECTIONS))
    if kind == "change":
        return specs.change(rng, rng.choice(specs.ACTIONS))
    if kind == "scenery":
        return specs.scenery(rng, *rng.sample(specs.SCENES, 2))
    count = rng.randint(1, 4)
    return specs.parade(rng, rng.sample(specs.COLOURS, count), specs.spread(rng, count))


def random_question(rng: Random, clip: Clip, counting: bool = False) -> Question:
    topics = KIND_TOPICS[type(clip)]
    topic = rng.choice((*topics, "count") if counting and "count" in topics else topics)
    right = answer_value(topic, clip)
    others = [value for value in values(topic) if value != right]
    rng.shuffle(others)
    if topic != "count" and rng.random() < 0.7:  # the answer of the clip played backwards goes first
        backwards = answer_value(topic, clip.backwards())
        others.sort(key=lambda value: value != backwards)
    return ask(rng, topic, [right, *others[: rng.randint(1, 3)]])


def frame_facts(clip: Clip) -> dict[str, list[int]]:
    """Per sampled frame, the class of each fact; class 0 of colour and scene is 'none'."""
    facts = {name: [IGNORE] * len(SAMPLED) for name in FRAME_FACTS}
    facts["colour"] = [0] * len(SAMPLED)
    facts["scene"] = [0] * len(SAMPLED)
    moved = progress(np.array(SAMPLED)).tolist()
    for i, frame in enumerate(SAMPLED):
        block = frame // 4
        if isinstance(clip, Scenery):
            if block not in (3, 4):
                facts["scene"][i] = 1 + specs.SCENES.index(clip.first if block < 3 else clip.last)
            continue
        thing = clip.things[block] if isinstance(clip, Parade) else clip
        if thing is None:
            continue
        facts["colour"][i] = 1 + specs.COLOURS.index(thing.colour)
        x, y, radius = float(thing.x), float(thing.y), float(thing.radius)
        if isinstance(clip, Motion):
            dx, dy = STEP[clip.direction]
            x, y = x + dx * clip.reach * moved[i], y + dy * clip.reach * moved[i]
        if isinstance(clip, Change):
            sign = -1 if clip.action in ("shrink", "close") else 1
            grown = sign * moved[i] if clip.action in ("grow", "shrink") else 0.0
            opened = sign * moved[i] if clip.action in ("open", "close") else 0.0
            radius *= 1 + 0.5 * grown
            facts["mouth"][i] = min(5, int((opened + 1) * 3))
        facts["x"][i], facts["y"][i] = min(5, int(x / 16)), min(5, int(y / 16))
        facts["radius"][i] = min(5, int(radius / 7))
    return facts


def story(clip: Clip) -> dict[str, list[int]]:
    """Per sampled frame, what has happened so far: the answers if the clip ended there."""
    facts = {name: [IGNORE] * len(SAMPLED) for name in STORY}
    if isinstance(clip, Motion | Change):
        topic = KIND_TOPICS[type(clip)][0]
        for name, classes in frame_facts(clip).items():
            if f"start_{name}" in STORY:
                facts[f"start_{name}"] = [classes[0]] * len(SAMPLED)
        facts[topic][1:] = [values(topic).index(answer_value(topic, clip))] * (len(SAMPLED) - 1)
        return facts
    for i in range(len(SAMPLED)):
        if isinstance(clip, Parade):
            order = replace(clip, things=clip.things[: i + 1]).order
            facts["first"][i] = specs.COLOURS.index(order[0])
            facts["last"][i] = specs.COLOURS.index(order[-1])
            facts["count"][i] = len(order) - 1
        else:
            facts["opening"][i] = specs.SCENES.index(clip.first)
            facts["closing"][i] = specs.SCENES.index(clip.first if i < 5 else clip.last)
    return facts


def colours_seen(clip: Clip) -> list[list[int]]:
    """Per sampled frame and colour, whether it has been shown so far."""
    if not isinstance(clip, Parade):
        return [[IGNORE] * len(specs.COLOURS)] * len(SAMPLED)
    seen = [replace(clip, things=clip.things[: i + 1]).order for i in range(len(SAMPLED))]
    return [[int(colour in order) for colour in specs.COLOURS] for order in seen]


@dataclass
class Texts:
    """Texts of one length, padded on the right: [text, token] and where in them the losses stand."""

    ids: Tensor  # [text, token]
    labels: Tensor  # [text, token], of the next token; IGNORE elsewhere
    last: Tensor  # [text], the position that predicts the letter, or the answer's first word
    stem: Tensor  # [text], the last token of the stem
    answer: Tensor  # [text], class of the answer's value
    options: Tensor  # [text, 4], the last token of each option, 0 where there is none
    meanings: Tensor  # [text, 4], class of each option's value, IGNORE where there is no option
    right: Tensor  # [text, 4], 1 right, 0 wrong, IGNORE where there is no option
    is_choice: Tensor  # [text], with options or without
    topics: list[str]


@dataclass
class Batch:
    pixels: Tensor  # [clip, frame, channel, height, width]
    frame_facts: dict[str, Tensor]  # [clip, frame]
    story: dict[str, Tensor]  # [clip, frame]
    seen: Tensor | None  # [clip, frame, colour], 1 seen so far, 0 not, IGNORE where clips are no parades
    branches: Texts  # what follows each clip, clip after clip
    copies: Texts  # whole prompts with the answer as text instead of a video


@dataclass(frozen=True)
class _Text:
    text: str
    stem_end: int
    option_ends: tuple[int, ...]
    right: int  # option's number, -1 without options
    meanings: tuple[int, ...]
    target: str
    answer: int
    topic: str


def _choice(before: str, question: Question, right: str) -> _Text:
    text = before + f"Question: {question.stem}"
    stem_end = len(text)
    text += "\nOptions:"
    ends = []
    for letter, candidate in zip(LETTERS, question.candidates, strict=False):
        text += f"\n({letter}) {candidate}"
        ends.append(len(text))
    number = question.options.index(right)
    meanings = tuple(ANSWERS[value] for value in question.options)
    text += TAIL + ANSWER_PREFIX
    return _Text(
        text, stem_end, tuple(ends), number, meanings, f"{LETTERS[number]})", ANSWERS[right], question.topic
    )


def _open(before: str, question: Question, right: str) -> _Text:
    text = before + f"Question: {question.stem}"
    target = " " + spell(question.topic, right, 0)
    return _Text(text + " ASSISTANT:", len(text), (), -1, (), target, ANSWERS[right], question.topic)


class Stream:
    """Batches by step number; a mixture stands in for the curriculum."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, seed: int = 0, mixture: Mixture | None = None):
        self.tokenizer, self.seed, self.mixture = tokenizer, seed, mixture
        self.kept_apart = frozenset(clip for _, _, group in all_groups() for clip in group.clips)
        self.prefix_ids = torch.tensor(tokenizer(BEFORE_VIDEO).input_ids)

    def mixture_at(self, step: int) -> Mixture:
        return self.mixture or CURRICULUM[max(start for start in CURRICULUM if start <= step)]

    def clip_specs(self, step: int) -> list[Clip]:
        rng = Random(f"{TRAINING_DOMAIN}:{self.seed}:{step}")
        mixture = self.mixture_at(step)
        clips: list[Clip] = []
        while len(clips) < mixture.clips:
            clip = random_clip(rng, mixture.kinds)
            if clip not in self.kept_apart:
                clips.append(clip)
        return clips

    def batch(self, step: int) -> Batch:
        rng = Random(f"{TRAINING_DOMAIN}:questions:{self.seed}:{step}")
        mixture, clips = self.mixture_at(step), self.clip_specs(step)
        branches = []
        for clip in clips:
            for _ in range(mixture.branches):
                question = random_question(rng, clip, mixture.counting)
                right = answer_value(question.topic, clip)
                form = _open if rng.random() < mixture.open_share else _choice
                branches.append(form(GAP, question, right))
        copies = [self._copy(rng, mixture) for _ in range(mixture.copies)]
        facts = [frame_facts(clip) for clip in clips]
        stories = [story(clip) for clip in clips]
        return Batch(
            pixels=to_pixels(np.stack([render(clip, SAMPLED) for clip in clips]), mixture.noise, rng),
            frame_facts={name: torch.tensor([f[name] for f in facts]) for name in FRAME_FACTS},
            seen=torch.tensor([colours_seen(clip) for clip in clips]) if mixture.counting else None,
            story={name: torch.tensor([s[name] for s in stories]) for name in STORY},
            branches=self._encode(branches, specials=False),
            copies=self._encode(copies, specials=True),
        )

    def _copy(self, rng: Random, mixture: Mixture) -> _Text:
        """The answer in words (in any style) where the video would stand."""
        clip = random_clip(rng, mixture.kinds)
        question = random_question(rng, clip, mixture.counting)
        right = answer_value(question.topic, clip)
        told = spell(question.topic, right, rng.choice((question.style, rng.randrange(NUM_STYLES))))
        return _choice(f"{SYSTEM}\n USER: The answer is: {told}{GAP}", question, right)

    def _encode(self, texts: list[_Text], specials: bool) -> Texts:
        encoded = self.tokenizer(
            [t.text for t in texts], add_special_tokens=specials, return_offsets_mapping=True
        )
        rows = []
        for i, text in enumerate(texts):
            ids = list(encoded.input_ids[i])
            target = self.tokenizer(text.target, add_special_tokens=False).input_ids
            target = [*target, self.tokenizer.eos_token_id]
            last = len(ids) - 1
            labels = [IGNORE] * last + target + [IGNORE]
            ends = [encoded.char_to_token(i, end - 1) for end in text.option_ends]
            stem = encoded.char_to_token(i, text.stem_end - 1)
            rows.append((ids + target, labels, last, stem, ends))
        length = max(len(row[0]) for row in rows)
        ids = torch.full((len(rows), length), self.tokenizer.pad_token_id)
        labels = torch.full((len(rows), length), IGNORE)
        options = torch.zeros(len(rows), 4, dtype=torch.long)
        right = torch.full((len(rows), 4), IGNORE)
        meanings = torch.full((len(rows), 4), IGNORE)
        for i, (row_ids, row_labels, _, _, ends) in enumerate(rows):
            ids[i, : len(row_ids)] = torch.tensor(row_ids)
            labels[i, : len(row_labels)] = torch.tensor(row_labels)
            options[i, : len(ends)] = torch.tensor(ends, dtype=torch.long)
            meanings[i, : len(ends)] = torch.tensor(texts[i].meanings, dtype=torch.long)
            right[i, : len(ends)] = 0
            if ends:
                right[i, texts[i].right] = 1
        return Texts(
            ids=ids,
            labels=labels,
            last=torch.tensor([row[2] for row in rows]),
            stem=torch.tensor([row[3] for row in rows]),
            answer=torch.tensor([t.answer for t in texts]),
            options=options,
            meanings=meanings,
            right=right,
            is_choice=torch.tensor([bool(t.option_ends) for t in texts]),
            topics=[t.topic for t in texts],
        )


def to_pixels(frames: np.ndarray, noise: float, rng: Random) -> Tensor:
    """uint8 [clip, frame, height, width, 3] -> what the processor makes of it, with some noise of a codec's size."""
    clips, count, side = frames.shape[:3]
    factor = side // IMAGE_SIDE
    small = frames.reshape(clips, count, IMAGE_SIDE, factor, IMAGE_SIDE, factor, 3).mean((3, 5)) / 255.0
    if noise:
        generator = np.random.default_rng(rng.getrandbits(64))
        small = small + noise * generator.standard_normal(small.shape)
        small = small * (1 + 0.05 * generator.standard_normal((clips, 1, 1, 1, 3)))
    pixels = (small.clip(0, 1) - 0.5) / 0.5
    return torch.from_numpy(pixels.astype(np.float32)).permute(0, 1, 4, 2, 3).contiguous()
