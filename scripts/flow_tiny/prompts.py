"""Questions as tokens, with the places where the losses stand."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from scripts.flow_tiny.labels import ANSWERS, IGNORE
from scripts.flow_tiny.text import ANSWER_PREFIX, TAIL
from scripts.flowbench.questions import LETTERS, Question, spell


@dataclass(frozen=True)
class Prompt:
    text: str
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
    text += TAIL + ANSWER_PREFIX
    return Prompt(
        text, stem_end, tuple(ends), number, meanings, f"{LETTERS[number]})", ANSWERS[right], question.topic
    )


def open_prompt(before: str, question: Question, right: str) -> Prompt:
    text = before + f"Question: {question.stem}"
    target = " " + spell(question.topic, right, 0)
    return Prompt(text + " ASSISTANT:", len(text), (), -1, (), target, ANSWERS[right], question.topic)


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


def encode(tokenizer: PreTrainedTokenizerFast, texts: list[Prompt], specials: bool) -> Texts:
    """A batch of prompts with their targets; `specials` puts the tokenizer's first token before each."""
    encoded = tokenizer([t.text for t in texts], add_special_tokens=specials, return_offsets_mapping=True)
    rows = []
    for i, text in enumerate(texts):
        ids = list(encoded.input_ids[i])
        target = tokenizer(text.target, add_special_tokens=False).input_ids
        target = [*target, tokenizer.eos_token_id]
        last = len(ids) - 1
        labels = [IGNORE] * last + target + [IGNORE]
        ends = [encoded.char_to_token(i, end - 1) for end in text.option_ends]
        stem = encoded.char_to_token(i, text.stem_end - 1)
        rows.append((ids + target, labels, last, stem, ends))
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
        topics=[t.topic for t in texts],
    )
