"""One step's losses: the letter, and all that leads to it."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import LlavaNextVideoForConditionalGeneration

from scripts.flow_tiny.data import Batch
from scripts.flow_tiny.forward import (
    packed_masks,
    packed_positions,
    run_layers,
    split_branches,
    text_masks,
)
from scripts.flow_tiny.labels import IGNORE
from scripts.flow_tiny.model import (
    ANSWER_LAYER,
    OPTION_LAYER,
    POINTER_HEADS,
    POINTER_LAYERS,
    STORY_LAYER,
    TrainingHeads,
    pointer_scores,
)
from scripts.flow_tiny.prompts import Texts
from scripts.flowbench.questions import TOPICS

WEIGHTS = {
    "letter": 1.0,  # of questions about clips
    "copy": 0.5,  # the letter where the answer is told in words
    "unknown": 1.0,  # the letter where the planted way is cut
    "words": 0.3,  # what follows the letter; answers to questions without options
    "frame": 1.0,
    "story": 1.0,
    "seen": 4.0,  # small numbers, and what counting stands on
    "answer": 1.0,
    "option": 0.5,
    "pointer": 0.5,
}


def embed_videos(model: LlavaNextVideoForConditionalGeneration, pixels: Tensor) -> Tensor:
    """[clip, frame, channel, height, width] -> [clip, frame * token, width]."""
    config = model.config
    videos: Tensor = model.model.get_video_features(
        pixels,
        vision_feature_layer=config.vision_feature_layer,
        vision_feature_select_strategy=config.vision_feature_select_strategy,
    ).pooler_output
    return videos


class Losses:
    """Sums a step's losses and counts what was right, by name."""

    def __init__(self) -> None:
        self.total: dict[str, Tensor] = {}
        self.right: dict[str, list[int]] = defaultdict(lambda: [0, 0])

    def add(self, name: str, value: Tensor) -> None:
        self.total[name] = self.total.get(name, torch.zeros(())) + value

    def count(self, name: str, hits: Tensor) -> None:
        self.right[name][0] += int(hits.sum())
        self.right[name][1] += hits.numel()


@dataclass(frozen=True)
class Read:
    """Texts that the model has read: its states [text, token, width] by layer, 0 being the embeddings."""

    texts: Texts
    states: tuple[Tensor, ...]
    answerable: Tensor  # [text], whether what is cut leaves the answer a way
    copies: bool  # the answer was told in words, not shown
    past: int = 0  # tokens before the texts

    def at(self, layer: int, places: Tensor) -> Tensor:
        """States at places [text] or [text, place]."""
        rows = torch.arange(len(places))
        return self.states[layer][rows if places.ndim == 1 else rows[:, None], places]

    @property
    def prefix(self) -> str:
        """What begins the names of counts."""
        return "copy_" if self.copies else ""


def answer_losses(losses: Losses, heads: TrainingHeads, read: Read) -> None:
    """The answer's value, where the stem ends and where the prompt ends.

    Options speak the same code (`option_losses` uses the same head), so that finding the right one is a comparison of
    like with like.
    """
    texts, asked = read.texts, read.answerable
    right = texts.answer[asked]
    if not read.copies:
        answer = heads.answer(read.at(ANSWER_LAYER, texts.stem)[asked])
        losses.add("answer", F.cross_entropy(answer, right))
        topics = [topic for topic, one in zip(texts.topics, asked.tolist(), strict=True) if one]
        for topic, hit in zip(topics, answer.argmax(-1) == right, strict=True):
            losses.count(f"answer/{TOPICS[topic]}", hit[None])
    known = heads.answer(read.at(OPTION_LAYER, texts.last)[asked])
    losses.add("answer", F.cross_entropy(known, right))
    losses.count(f"{read.prefix}known", known.argmax(-1) == right)


def option_losses(losses: Losses, heads: TrainingHeads, read: Read) -> None:
    """At each option's end: its value and its letter."""
    texts = read.texts
    exists = texts.right != IGNORE
    if not exists.any():
        return
    meant = heads.answer(read.at(ANSWER_LAYER, texts.options)[exists])
    losses.add("option", F.cross_entropy(meant, texts.meanings[exists]))
    losses.count("meant", meant.argmax(-1) == texts.meanings[exists])
    letters = torch.arange(4).expand_as(texts.options)[exists]
    spelt = heads.letter(read.at(OPTION_LAYER, texts.options)[exists])
    losses.add("option", F.cross_entropy(spelt, letters))
    losses.count("own_letter", spelt.argmax(-1) == letters)


def pointer_losses(losses: Losses, model: LlavaNextVideoForConditionalGeneration, read: Read) -> None:
    """The last token's attention goes to the right option's end."""
    texts, choice = read.texts, read.texts.is_choice & read.answerable
    if not choice.any():
        return
    right = texts.right[choice].argmax(-1, keepdim=True)
    end = texts.options[choice].gather(1, right)  # [text, 1]
    for layer in POINTER_LAYERS:
        scores = pointer_scores(model, layer, read.states[layer - 1][choice], texts.last[choice], read.past)
        losses.add("pointer", F.cross_entropy(scores.transpose(1, 2), end.expand(-1, POINTER_HEADS)))
    losses.count(f"{read.prefix}pointer", scores.mean(1).argmax(-1) == end[:, 0])


def token_losses(losses: Losses, model: LlavaNextVideoForConditionalGeneration, read: Read) -> None:
    """The letter, and what follows it or answers in words."""
    texts, asked = read.texts, read.answerable
    labelled = (texts.labels != IGNORE) & asked[:, None]
    logits = model.lm_head(read.states[-1][labelled])
    targets = texts.labels[labelled]
    each = F.cross_entropy(logits, targets, reduction="none")
    letters = torch.zeros_like(labelled)
    letters[torch.arange(len(texts.last)), texts.last] = texts.is_choice & asked
    letters = letters[labelled]
    if letters.any():
        losses.add("copy" if read.copies else "letter", each[letters].mean())
    losses.add("words", each[~letters].mean())
    hits = (logits.argmax(-1) == targets)[letters]
    if read.copies:
        losses.count("copy", hits)
        return
    chosen = (texts.is_choice & asked).tolist()
    topics = [topic for topic, one in zip(texts.topics, chosen, strict=True) if one]
    for topic, hit in zip(topics, hits, strict=True):
        losses.count(f"letter/{TOPICS[topic]}", hit[None])


def unknown_losses(losses: Losses, model: LlavaNextVideoForConditionalGeneration, read: Read) -> None:
    """Where the answer has no way left, every offered letter is as likely."""
    texts, silent = read.texts, read.texts.is_choice & ~read.answerable
    if not silent.any():
        return
    offered = (texts.right[silent] != IGNORE).float()
    said = model.lm_head(read.at(-1, texts.last)[silent]).log_softmax(-1)[:, texts.letters]
    losses.add("unknown", -(said * offered / offered.sum(1, keepdim=True)).sum(1).mean())
    right = texts.right[silent].argmax(-1)
    losses.count("unknown", said.argmax(-1) == right)


def text_losses(
    losses: Losses, model: LlavaNextVideoForConditionalGeneration, heads: TrainingHeads, read: Read
) -> None:
    option_losses(losses, heads, read)
    unknown_losses(losses, model, read)
    if read.answerable.any():
        answer_losses(losses, heads, read)
        pointer_losses(losses, model, read)
        token_losses(losses, model, read)


def clip_losses(losses: Losses, heads: TrainingHeads, batch: Batch, videos: Tensor, watched: Tensor) -> None:
    """What is in each frame, from the projector's output; what has happened so far, from `watched`.

    Both are [clip, frame * token, width].
    """
    for name, logits in heads.frame_logits(videos).items():
        target = batch.frame_facts[name]
        known = target != IGNORE
        if known.any():
            losses.add("frame", F.cross_entropy(logits[known], target[known]))
            losses.count(f"frame/{name}", logits[known].argmax(-1) == target[known])
    for name, logits in heads.story_logits(watched).items():
        target = batch.story[name]
        known = target != IGNORE
        if known.any():
            losses.add("story", F.cross_entropy(logits[known], target[known]))
            whole = known[:, -1]
            losses.count(f"story/{name}", logits[whole, -1].argmax(-1) == target[whole, -1])
    if batch.seen is not None and (known := batch.seen != IGNORE).any():
        logits, target = heads.seen_logits(watched)[known], batch.seen[known]
        losses.add("seen", F.binary_cross_entropy_with_logits(logits, target.float()))
        losses.count("seen", (logits > 0) == target.bool())


def step_losses(
    model: LlavaNextVideoForConditionalGeneration, heads: TrainingHeads, batch: Batch, prefix_ids: Tensor
) -> Losses:
    """One forward of each clip with its questions behind it, under what its draw leaves of the edges."""
    losses = Losses()
    language = model.model.language_model
    embed = language.embed_tokens
    videos = embed_videos(model, batch.pixels)
    clips, texts = len(batch.pixels), batch.branches
    count, past, new = len(texts.ids) // clips, len(prefix_ids) + videos.shape[1], texts.ids.shape[1]
    asked = embed(texts.ids).unflatten(0, (clips, count)).flatten(1, 2)
    states = run_layers(
        language,
        torch.cat([embed(prefix_ids).expand(clips, -1, -1), videos, asked], dim=1),
        packed_positions(past, new, count),
        packed_masks(batch.clip_edges, texts.layouts, past, new),
    )
    clip_losses(losses, heads, batch, videos, states[STORY_LAYER][:, len(prefix_ids) : past])
    answerable = torch.tensor([draw.answerable for draw in batch.clip_edges]).repeat_interleave(count)
    branches = tuple(split_branches(states, past, count))
    text_losses(losses, model, heads, Read(texts, branches, answerable, copies=False, past=past))

    texts = batch.copies
    states = run_layers(
        language,
        embed(texts.ids),
        torch.arange(texts.ids.shape[1])[None],
        text_masks(batch.copy_edges, texts.layouts, texts.ids.shape[1]),
    )
    known = torch.ones(len(texts.ids), dtype=torch.bool)
    text_losses(losses, model, heads, Read(texts, states, known, copies=True))
    return losses
