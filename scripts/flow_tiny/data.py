"""The training stream: step n of a seed is always the same batch, whatever ran before."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from scripts.flow_tiny.edges import Draw, EdgeDropout
from scripts.flow_tiny.labels import FRAME_FACTS, SAMPLED, STORY, colours_seen, frame_facts, story
from scripts.flow_tiny.model import IMAGE_SIDE
from scripts.flow_tiny.prompts import Prompt, Texts, choice_prompt, encode, open_prompt
from scripts.flow_tiny.text import BEFORE_VIDEO, GAP, SYSTEM
from scripts.flowbench import specs
from scripts.flowbench.groups import all_groups
from scripts.flowbench.questions import NUM_STYLES, Question, answer_value, ask, spell, values
from scripts.flowbench.render import render
from scripts.flowbench.specs import Change, Clip, Motion, Parade, Scenery

TRAINING_DOMAIN = "train"  # the benchmark's seeds begin with another word
KINDS = ("motion", "change", "parade", "scenery")
KIND_TOPICS: dict[type, tuple[str, ...]] = {
    Motion: ("direction",),
    Change: ("action",),
    Parade: ("first", "last", "count"),
    Scenery: ("transition", "transition", "opening", "closing"),
}


@dataclass(frozen=True)
class Mixture:
    """What a step's batch is made of."""

    clips: int = 12
    branches: int = 2  # questions of each clip
    copies: int = 8  # texts with the answer told in words
    kinds: tuple[int, int, int, int] = (3, 3, 4, 1)  # how often each of KINDS is drawn
    open_share: float = 0.15  # of the questions, without options
    noise: float = 0.02  # of the pixels, standard deviation; white is 1
    counting: bool = False  # half of a parade's questions ask for the count; the colours seen are trained


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


@dataclass
class Batch:
    pixels: Tensor  # [clip, frame, channel, height, width]
    frame_facts: dict[str, Tensor]  # [clip, frame]
    story: dict[str, Tensor]  # [clip, frame]
    seen: Tensor | None  # [clip, frame, colour], 1 seen so far, 0 not, IGNORE where clips are no parades
    branches: Texts  # what follows each clip, clip after clip
    copies: Texts  # whole prompts with the answer as text instead of a video
    clip_edges: list[Draw]  # what is cut for each clip and its questions
    copy_edges: list[Draw]


class Stream:
    """Batches by step number; a mixture stands in for the curriculum."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerFast,
        seed: int = 0,
        mixture: Mixture | None = None,
        edge_dropout: EdgeDropout | None = None,
    ):
        self.tokenizer, self.seed, self.mixture, self.edge_dropout = tokenizer, seed, mixture, edge_dropout
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
                form = open_prompt if rng.random() < mixture.open_share else choice_prompt
                branches.append(form(GAP, question, right))
        copies = [self._copy(rng, mixture) for _ in range(mixture.copies)]
        edges = Random(f"{TRAINING_DOMAIN}:edges:{self.seed}:{step}")
        facts = [frame_facts(clip) for clip in clips]
        stories = [story(clip) for clip in clips]
        return Batch(
            pixels=to_pixels(np.stack([render(clip, SAMPLED) for clip in clips]), mixture.noise, rng),
            frame_facts={name: torch.tensor([f[name] for f in facts]) for name in FRAME_FACTS},
            seen=torch.tensor([colours_seen(clip) for clip in clips]) if mixture.counting else None,
            story={name: torch.tensor([s[name] for s in stories]) for name in STORY},
            branches=encode(self.tokenizer, branches, after_video=True),
            copies=encode(self.tokenizer, copies, after_video=False),
            clip_edges=[self._edges(edges) for _ in clips],
            copy_edges=[self._edges(edges, may_be_unanswerable=False) for _ in copies],
        )

    def _edges(self, rng: Random, may_be_unanswerable: bool = True) -> Draw:
        return self.edge_dropout.draw(rng, may_be_unanswerable) if self.edge_dropout else Draw()

    def _copy(self, rng: Random, mixture: Mixture) -> Prompt:
        """The answer in words (in any style) where the video would stand."""
        clip = random_clip(rng, mixture.kinds)
        question = random_question(rng, clip, mixture.counting)
        right = answer_value(question.topic, clip)
        told = spell(question.topic, right, rng.choice((question.style, rng.randrange(NUM_STYLES))))
        return choice_prompt(f"{SYSTEM}\n USER: The answer is: {told}{GAP}", question, right)


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
