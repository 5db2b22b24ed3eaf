"""Prompts of the paper's form in three kinds of tokenizer, and the text of their tokens."""

from __future__ import annotations

import functools
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from lmms_flow.assets import flow_tiny_dir
from lmms_flow.inputs.groups import EncodedPrompt, PromptGroups
from tests.support.checkpoints import CORPUS, llama_tokenizer

VIDEO, FRAMES, PER_FRAME = "<image>", 4, 3
SYSTEM = (
    "Carefully watch the video and pay attention to the cause and sequence of events, the detail and movement of "
    "objects, and the action and pose of persons. Based on your observations, select the best option that accurately "
    "addresses the question."
)
PAPER_TEXT = (
    "Question: What is the direction of the moving object?\nOptions:\n(A) From left to right.\n(B) From right to "
    "left. \nOnly give the best option."
)
PAPER_PROMPT = f"{SYSTEM}\n USER: <image>\n USER: {PAPER_TEXT} ASSISTANT:Best option:("


@functools.cache
def tokenizer(kind: str) -> Any:
    """Llama's kind (spaces in front of words, bytes for the unknown), and byte-level BPE of two sorts."""
    if kind == "llama":
        made = llama_tokenizer(VIDEO, "<pad>")
        return PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>")
    if kind == "flow-tiny":
        return AutoTokenizer.from_pretrained(flow_tiny_dir())
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=700, special_tokens=[VIDEO], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    made.train_from_iterator([*CORPUS.split("\n"), PAPER_TEXT * 3, ".\n\nA. B."] * 3, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=made)


KINDS = ["llama", "flow-tiny", "byte-level"]


def encode(text: str, kind: str = "llama") -> EncodedPrompt:
    """As a wrapper does it: one placeholder becomes the video's tokens."""
    out = tokenizer(kind)(text, return_offsets_mapping=True)
    ids, offsets = list(out["input_ids"]), list(out["offset_mapping"])
    at = ids.index(tokenizer(kind).convert_tokens_to_ids(VIDEO))
    count = FRAMES * PER_FRAME
    ids[at : at + 1] = [ids[at]] * count
    offsets[at : at + 1] = [offsets[at]] * count
    video = range(at, at + count)
    spans = tuple(range(start, start + PER_FRAME) for start in video[::PER_FRAME])
    return EncodedPrompt(text, tuple(ids), tuple(offsets), video, spans)


def prompt_of(user_text: str, answer: str = "Best option:(") -> str:
    return f"Watch.\n USER: <image>\n USER: {user_text} ASSISTANT:{answer}"


def decoded(prompt: EncodedPrompt, groups: PromptGroups, name: str, kind: str = "llama") -> list[str]:
    """The text of each piece of a group, by decoding its tokens with the sentence before them."""
    ids = prompt.input_ids
    pieces = []
    for span in groups.layout.span(name):
        both = tokenizer(kind).decode(ids[: span.stop], skip_special_tokens=False)
        pieces.append(both[len(tokenizer(kind).decode(ids[: span.start], skip_special_tokens=False)) :])
    return pieces
