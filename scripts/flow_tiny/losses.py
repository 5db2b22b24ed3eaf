"""One step's losses: the letter, and all that leads to it."""

from __future__ import annotations

from collections import defaultdict

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


def text_losses(
    losses: Losses, model: LlavaNextVideoForConditionalGeneration, heads: TrainingHeads,
    states: tuple[Tensor, ...], texts: Texts, copies: bool, past: int = 0,
) -> None:  # fmt: skip
    rows = torch.arange(len(texts.last))
    exists = texts.right != IGNORE
    kind = "copy_" if copies else ""
    # One code for an answer, wherever it stands: at the stem's end, at the prompt's end, in an option's own words.
    # Finding the right option is then a comparison of like with like.
    if not copies:
        answer = heads.answer(states[ANSWER_LAYER][rows, texts.stem])
        losses.add("answer", F.cross_entropy(answer, texts.answer))
        for topic, hit in zip(texts.topics, answer.argmax(-1) == texts.answer, strict=True):
            losses.count(f"answer/{TOPICS[topic]}", hit[None])
    known = heads.answer(states[OPTION_LAYER][rows, texts.last])
    losses.add("answer", F.cross_entropy(known, texts.answer))
    losses.count(f"{kind}known", known.argmax(-1) == texts.answer)
    meant = heads.answer(states[ANSWER_LAYER][rows[:, None], texts.options][exists])
    losses.add("option", F.cross_entropy(meant, texts.meanings[exists]))
    losses.count("meant", meant.argmax(-1) == texts.meanings[exists])
    # At each option's end its letter.
    letters = torch.arange(4).expand_as(texts.options)[exists]
    spelt = heads.letter(states[OPTION_LAYER][rows[:, None], texts.options][exists])
    losses.add("option", F.cross_entropy(spelt, letters))
    losses.count("own_letter", spelt.argmax(-1) == letters)
    # The last token's attention goes to the right option's end.
    choice = texts.is_choice
    right = texts.right[choice].argmax(-1, keepdim=True)
    ends = texts.options[choice]
    for layer in POINTER_LAYERS:
        scores = pointer_scores(model, layer, states[layer - 1][choice], texts.last[choice], past)
        losses.add(
            "pointer",
            F.cross_entropy(scores.transpose(1, 2), ends.gather(1, right).expand(-1, POINTER_HEADS)),
        )
    losses.count(f"{kind}pointer", scores.mean(1).argmax(-1) == ends.gather(1, right)[:, 0])
    # The text itself.
    labelled = texts.labels != IGNORE
    logits = model.lm_head(states[-1][labelled])
    targets = texts.labels[labelled]
    each = F.cross_entropy(logits, targets, reduction="none")
    is_letter = torch.zeros_like(labelled)
    is_letter[rows, texts.last] = texts.is_choice
    is_letter = is_letter[labelled]
    losses.add("copy" if copies else "letter", each[is_letter].mean())
    losses.add("words", each[~is_letter].mean())
    hits = logits.argmax(-1) == targets
    if copies:
        losses.count("copy", hits[is_letter])
        return
    topics = [topic for topic, choice in zip(texts.topics, texts.is_choice.tolist(), strict=True) if choice]
    for topic, hit in zip(topics, hits[is_letter], strict=True):
        losses.count(f"letter/{TOPICS[topic]}", hit[None])


def step_losses(
    model: LlavaNextVideoForConditionalGeneration, heads: TrainingHeads, batch: Batch, prefix_ids: Tensor
) -> Losses:
    """One forward of each clip, continued by its questions from the clip's keys and values."""
    losses = Losses()
    language = model.model.language_model
    embed = language.embed_tokens
    clips = len(batch.pixels)
    videos = embed_videos(model, batch.pixels)
    for name, logits in heads.frame_logits(videos).items():
        target = batch.frame_facts[name]
        known = target != IGNORE
        if known.any():
            losses.add("frame", F.cross_entropy(logits[known], target[known]))
            losses.count(f"frame/{name}", logits[known].argmax(-1) == target[known])

    prefix = torch.cat([embed(prefix_ids).expand(clips, -1, -1), videos], dim=1)
    read = language(inputs_embeds=prefix, use_cache=True, output_hidden_states=True)
    watched = read.hidden_states[STORY_LAYER][:, len(prefix_ids) :]
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

    texts = batch.branches
    cache = read.past_key_values
    cache.batch_repeat_interleave(len(texts.ids) // clips)
    past, new = prefix.shape[1], texts.ids.shape[1]
    states = language(
        inputs_embeds=embed(texts.ids),
        past_key_values=cache,
        attention_mask=causal_rows(new, past + new),
        position_ids=torch.arange(past, past + new)[None],
        output_hidden_states=True,
    ).hidden_states
    text_losses(losses, model, heads, states, texts, copies=False, past=past)

    copies = language(inputs_embeds=embed(batch.copies.ids), use_cache=False, output_hidden_states=True)
    text_losses(losses, model, heads, copies.hidden_states, batch.copies, copies=True)
    return losses
