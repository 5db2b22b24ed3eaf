"""Questions as tokens, with the places where the losses stand."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from lmms_flow.flow import Flow, Layout
from lmms_flow.inputs.groups import EncodedPrompt, find_groups
from scripts.flow_tiny.labels import ANSWERS, IGNORE
from scripts.flow_tiny.model import NUM_FRAMES, TOKENS_PER_FRAME
from scripts.flow_tiny.text import ANSWER_PREFIX, ASSISTANT, BEFORE_VIDEO, GAP, TAIL
from scripts.flowbench.questions import LETTERS, Question, spell


@dataclass(frozen=True)
class Prompt:
    text: str
    user: tuple[int, int]  # the characters of the user's turn
    stem_end: int
    option_ends: tuple[int, ...]
    right: int  # option's number, -1 without options
    meanings: tuple[int, ...]
    target: str
    answer: int
    topic: str


def choice_prompt(before: str, question: Question, right: str) -> Prompt:
    text = before + f"Question: {question.stem}"
    stem_end = len(text)
    text += "\nOptions:"
    ends = []
    for letter, candidate in zip(LETTERS, question.candidates, strict=False):
        text += f"\n({letter}) {candidate}"
        ends.append(len(text))
    number = question.options.index(right)
    meanings = tuple(ANSWERS[value] for value in question.options)
    text += TAIL
    user = len(before), len(text) - len(ASSISTANT)
    text += ANSWER_PREFIX
    target = f"{LETTERS[number]})"
    return Prompt(text, user, stem_end, tuple(ends), number, meanings, target, ANSWERS[right], question.topic)


def open_prompt(before: str, question: Question, right: str) -> Prompt:
    text = before + f"Question: {question.stem}"
    target = " " + spell(question.topic, right, 0)
    user = len(before), len(text)
    return Prompt(text + ASSISTANT, user, len(text), (), -1, (), target, ANSWERS[right], question.topic)


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
    letters: Tensor  # [4], the letters' tokens
    topics: list[str]
    layouts: list[Layout]  # of the whole prompts, with what stands before the texts


def encode(tokenizer: PreTrainedTokenizerFast, texts: list[Prompt], after_video: bool) -> Texts:
    """A batch of prompts with their targets: what follows the video, or whole prompts in which words stand for it."""
    encoded = tokenizer(
        [t.text for t in texts], add_special_tokens=not after_video, return_offsets_mapping=True
    )
    before = video_prefix(tokenizer) if after_video else None
    rows, layouts = [], []
    for i, text in enumerate(texts):
        tokens = list(encoded.input_ids[i])
        layouts.append(layout(text, tokens, encoded.offset_mapping[i], before))
        target = tokenizer(text.target, add_special_tokens=False).input_ids
        target = [*target, tokenizer.eos_token_id]
        last = len(tokens) - 1
        following = [IGNORE] * last + target + [IGNORE]
        ends = [encoded.char_to_token(i, end - 1) for end in text.option_ends]
        stem = encoded.char_to_token(i, text.stem_end - 1)
        rows.append((tokens + target, following, last, stem, ends))
    length = max(len(row[0]) for row in rows)
    ids = torch.full((len(rows), length), tokenizer.pad_token_id)
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
        letters=torch.tensor(tokenizer.convert_tokens_to_ids(list(LETTERS))),
        topics=[t.topic for t in texts],
        layouts=layouts,
    )


PLACEHOLDER = "<video>"
NAMED = Flow.load("video:question")  # a flow that names the groups which a pathway names


def video_prefix(tokenizer: PreTrainedTokenizerFast) -> EncodedPrompt:
    """The prompt up to its video, as the product encodes it."""
    encoded = tokenizer(BEFORE_VIDEO, return_offsets_mapping=True)
    system, size = len(encoded.input_ids), NUM_FRAMES * TOKENS_PER_FRAME
    text = BEFORE_VIDEO + PLACEHOLDER
    ids = [*encoded.input_ids, *[tokenizer.convert_tokens_to_ids(PLACEHOLDER)] * size]
    offsets = [*encoded.offset_mapping, *[(len(BEFORE_VIDEO), len(text))] * size]
    starts = range(system, system + size, TOKENS_PER_FRAME)
    frames = tuple(range(start, start + TOKENS_PER_FRAME) for start in starts)
    return EncodedPrompt(text, tuple(ids), tuple(offsets), range(system, system + size), frames)


def layout(
    text: Prompt, ids: list[int], offsets: list[tuple[int, int]], before: EncodedPrompt | None
) -> Layout:
    """The groups of a prompt, found by the product's own code.

    Without a video `before` it, the words between the system's and the user's turn stand for a video of one frame.
    """
    user = text.text[slice(*text.user)]
    if before is None:
        whole = EncodedPrompt(text.text, tuple(ids), tuple(offsets), range(0), ())
        told = range(whole.first_token(len(BEFORE_VIDEO), 1), whole.first_token(text.user[0] - len(GAP), 1))
        whole = replace(whole, video=told, frames=(told,))
    else:
        shift = len(before.text)
        moved = tuple((start + shift, stop + shift) for start, stop in offsets)
        whole = replace(
            before,
            text=before.text + text.text,
            input_ids=(*before.input_ids, *ids),
            offsets=before.offsets + moved,
        )
    return find_groups(whole, user, {}, NAMED).layout
