"""One step's losses: the letter, and all that leads to it."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import LlavaNextVideoForConditionalGeneration

from scripts.flow_tiny.data import Batch
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
    "words": 0.3,  # what follows the letter; answers to questions without options
    "frame": 1.0,
    "story": 1.0,
    "seen": 4.0,  # small numbers, and what counting stands on
    "answer": 1.0,
    "option": 0.5,
    "pointer": 0.5,
}


def causal_rows(queries: int, keys: int) -> Tensor:
    """[1, 1, query, key], True where the last `queries` of `keys` tokens may look."""
    return torch.ones(queries, keys, dtype=torch.bool).tril(keys - queries)[None, None]


def embed_videos(model: LlavaNextVideoForConditionalGeneration, pixels: Tensor) -> Tensor:
    """[clip, frame, channel, height, width] -> [clip, frame * token, width]."""
    config = model.config
    return model.model.get_video_features(
        pixels,
        vision_feature_layer=config.vision_feature_layer,
        vision_feature_select_strategy=config.vision_feature_select_strategy,
    ).pooler_output


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
    texts = read.texts
    if not read.copies:
        answer = heads.answer(read.at(ANSWER_LAYER, texts.stem))
        losses.add("answer", F.cross_entropy(answer, texts.answer))
        for topic, hit in zip(texts.topics, answer.argmax(-1) == texts.answer, strict=True):
            losses.count(f"answer/{TOPICS[topic]}", hit[None])
    known = heads.answer(read.at(OPTION_LAYER, texts.last))
    losses.add("answer", F.cross_entropy(known, texts.answer))
    losses.count(f"{read.prefix}known", known.argmax(-1) == texts.answer)


def option_losses(losses: Losses, heads: TrainingHeads, read: Read) -> None:
    """At each option's end: its value and its letter."""
    texts = read.texts
    exists = texts.right != IGNORE
    meant = heads.answer(read.at(ANSWER_LAYER, texts.options)[exists])
    losses.add("option", F.cross_entropy(meant, texts.meanings[exists]))
    losses.count("meant", meant.argmax(-1) == texts.meanings[exists])
    letters = torch.arange(4).expand_as(texts.options)[exists]
    spelt = heads.letter(read.at(OPTION_LAYER, texts.options)[exists])
    losses.add("option", F.cross_entropy(spelt, letters))
    losses.count("own_letter", spelt.argmax(-1) == letters)


def pointer_losses(losses: Losses, model: LlavaNextVideoForConditionalGeneration, read: Read) -> None:
    """The last token's attention goes to the right option's end."""
    texts, choice = read.texts, read.texts.is_choice
    right = texts.right[choice].argmax(-1, keepdim=True)
    end = texts.options[choice].gather(1, right)  # [text, 1]
    for layer in POINTER_LAYERS:
        scores = pointer_scores(model, layer, read.states[layer - 1][choice], texts.last[choice], read.past)
        losses.add("pointer", F.cross_entropy(scores.transpose(1, 2), end.expand(-1, POINTER_HEADS)))
    losses.count(f"{read.prefix}pointer", scores.mean(1).argmax(-1) == end[:, 0])


def token_losses(losses: Losses, model: LlavaNextVideoForConditionalGeneration, read: Read) -> None:
    """The letter, and what follows it or answers in words."""
    texts = read.texts
    labelled = texts.labels != IGNORE
    logits = model.lm_head(read.states[-1][labelled])
    targets = texts.labels[labelled]
    each = F.cross_entropy(logits, targets, reduction="none")
    letters = torch.zeros_like(labelled)
    letters[torch.arange(len(texts.last)), texts.last] = texts.is_choice
    letters = letters[labelled]
    losses.add("copy" if read.copies else "letter", each[letters].mean())
    losses.add("words", each[~letters].mean())
    hits = (logits.argmax(-1) == targets)[letters]
    if read.copies:
        losses.count("copy", hits)
        return
    topics = [topic for topic, choice in zip(texts.topics, texts.is_choice.tolist(), strict=True) if choice]
    for topic, hit in zip(topics, hits, strict=True):
        losses.count(f"letter/{TOPICS[topic]}", hit[None])


def text_losses(
    losses: Losses, model: LlavaNextVideoForConditionalGeneration, heads: TrainingHeads, read: Read
) -> None:
    answer_losses(losses, heads, read)
    option_losses(losses, heads, read)
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
    """One forward of each clip, continued by its questions from the clip's keys and values."""
    losses = Losses()
    language = model.model.language_model
    embed = language.embed_tokens
    clips = len(batch.pixels)
    videos = embed_videos(model, batch.pixels)
    prefix = torch.cat([embed(prefix_ids).expand(clips, -1, -1), videos], dim=1)
    watched = language(inputs_embeds=prefix, use_cache=True, output_hidden_states=True)
    clip_losses(losses, heads, batch, videos, watched.hidden_states[STORY_LAYER][:, len(prefix_ids) :])

    texts, cache = batch.branches, watched.past_key_values
    cache.batch_repeat_interleave(len(texts.ids) // clips)
    past, new = prefix.shape[1], texts.ids.shape[1]
    asked = language(
        inputs_embeds=embed(texts.ids),
        past_key_values=cache,
        attention_mask=causal_rows(new, past + new),
        position_ids=torch.arange(past, past + new)[None],
        output_hidden_states=True,
    )
    text_losses(losses, model, heads, Read(texts, asked.hidden_states, copies=False, past=past))

    told = language(inputs_embeds=embed(batch.copies.ids), use_cache=False, output_hidden_states=True)
    text_losses(losses, model, heads, Read(batch.copies, told.hidden_states, copies=True))
    return losses
