"""Score a checkpoint on flowbench, through files, the reader and the processor: python -m scripts.flow_tiny.evaluate.

The answer is the most likely token of the whole vocabulary at the prompt's last position. Arms: `full`; `blind`
(nothing after the video reads it); `single` (the middle frame alone); `text` (no video in the prompt).
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from statsmodels.stats.proportion import proportion_confint
from transformers import AutoProcessor, LlavaNextVideoForConditionalGeneration, ProcessorMixin

from lmms_flow.assets import flow_tiny_dir, flowbench_dir
from lmms_flow.inputs import video as videos
from scripts.flow_tiny.model import NUM_FRAMES
from scripts.flowbench.questions import FAMILIES, LETTERS

Rows = dict[str, dict[str, float]]  # by family: counts, shares and their intervals

ARMS = ("full", "blind", "single", "text")


@dataclass(frozen=True)
class Answer:
    """What one arm said to one document."""

    id: str
    family: str
    arm: str
    said: str
    right: str
    options: int
    pair: str | None

    @property
    def correct(self) -> bool:
        return self.said == self.right


def documents(folder: Path, families: tuple[str, ...] = FAMILIES) -> list[dict[str, Any]]:
    return [
        json.loads(line)
        for family in families
        for line in (folder / f"{family}.jsonl").read_text(encoding="utf-8").splitlines()
    ]


def read_frames(path: Path, count: int) -> np.ndarray:
    """Midpoints of `count` segments: uint8 [frame, height, width, 3]."""
    return videos.read_frames(path, count).pixels


def prompt(processor: ProcessorMixin, document: dict[str, Any], video: bool) -> str:
    options = zip(LETTERS, document["candidates"], strict=False)
    lines = [f"Question: {document['question']}", "Options:", *(f"({a}) {b}" for a, b in options)]
    asked = "\n".join(lines) + " \nOnly give the best option."
    content = [{"type": "text", "text": asked}]
    if video:
        content.insert(0, {"type": "video"})
    messages = [
        {"role": "user", "content": content},
        {"role": "assistant", "content": [{"type": "text", "text": "Best option:("}]},
    ]
    text: str = processor.apply_chat_template(messages, tokenize=False, continue_final_message=True)
    return text


class Scorer:
    """A checkpoint that answers one document at a time."""

    def __init__(self, checkpoint: Path, bench: Path):
        self.processor = AutoProcessor.from_pretrained(checkpoint)
        self.model = LlavaNextVideoForConditionalGeneration.from_pretrained(checkpoint).eval()
        self.bench = bench

    @torch.inference_mode()
    def say(self, document: dict[str, Any], arm: str) -> str:
        inputs = self.inputs(document, arm)
        if arm == "blind":
            inputs["attention_mask"] = self._blind_mask(inputs["input_ids"])
        logits = self.model(**inputs, logits_to_keep=1).logits[0, -1]
        answer: str = self.processor.tokenizer.decode([int(logits.argmax())])
        return answer

    def inputs(self, document: dict[str, Any], arm: str) -> dict[str, torch.Tensor]:
        """What the model is called with, apart from the blind arm's mask."""
        text = prompt(self.processor, document, video=arm != "text")
        if arm == "text":
            return dict(self.processor(text=text, return_tensors="pt"))
        frames = read_frames(self.bench / document["video"], 1 if arm == "single" else NUM_FRAMES)
        return dict(self.processor(text=text, videos=[frames], return_tensors="pt", do_sample_frames=False))

    def _blind_mask(self, ids: torch.Tensor) -> torch.Tensor:
        """[1, 1, query, key]: causal, but what is not video does not read it."""
        video: torch.Tensor = ids[0] == self.processor.video_token_id
        allowed = torch.ones(len(video), len(video), dtype=torch.bool).tril()
        return (allowed & (video[:, None] | ~video[None, :]))[None, None]

    def answer(self, document: dict[str, Any], arm: str) -> Answer:
        return Answer(
            document["id"], document["family"], arm, self.say(document, arm), document["answer_letter"],
            len(document["candidates"]), document["pair"],
        )  # fmt: skip


def accuracy_row(answers: list[Answer]) -> dict[str, float]:
    """Share right with its 95 % Wilson interval, and chance, the mean of one over the number of options."""
    right = sum(answer.correct for answer in answers)
    low, high = proportion_confint(right, len(answers), method="wilson")
    chance = float(np.mean([1 / answer.options for answer in answers]))
    return {"n": len(answers), "accuracy": right / len(answers), "low": low, "high": high, "chance": chance}


def summary(answers: list[Answer]) -> dict[str, Rows]:
    """Per arm and family (and `all`) accuracies; `pairs`: of those right forwards, how many turn with the clip."""
    table: dict[str, Rows] = {}
    for arm in dict.fromkeys(answer.arm for answer in answers):
        mine = [answer for answer in answers if answer.arm == arm]
        names = dict.fromkeys(answer.family for answer in mine)
        table[arm] = {name: accuracy_row([a for a in mine if a.family == name]) for name in names}
        table[arm]["all"] = accuracy_row(mine)
    table["pairs"] = paired([answer for answer in answers if answer.arm == "full"])
    return table


def paired(answers: list[Answer]) -> Rows:
    """Of the pairs that are right forwards, the share that is right backwards as well."""
    by_id = {answer.id: answer for answer in answers}
    kept = [(a, by_id[a.pair]) for a in answers if a.correct and a.pair in by_id and a.id < a.pair]
    rows: Rows = {}
    for family in [*dict.fromkeys(a.family for a, _ in kept), "all"]:
        turned = [other.correct for a, other in kept if family in (a.family, "all")]
        if not turned:
            continue
        low, high = proportion_confint(sum(turned), len(turned), method="wilson")
        rows[family] = {"n": len(turned), "share": sum(turned) / len(turned), "low": low, "high": high}
    return rows


def show(table: dict[str, Rows]) -> str:
    lines = []
    for arm, rows in table.items():
        for name, row in rows.items():
            value = row.get("accuracy", row.get("share"))
            chance = f"  chance {row['chance']:.3f}" if "chance" in row else ""
            lines.append(
                f"{arm:7}{name:20}{row['n']:5}  {value:.3f} [{row['low']:.3f}, {row['high']:.3f}]{chance}"
            )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, default=flow_tiny_dir())
    parser.add_argument("--bench", type=Path, default=flowbench_dir())
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--every", type=int, default=1, help="only every n-th document")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, help="JSON file for the table and every answer")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    scorer = Scorer(args.checkpoint, args.bench)
    chosen = documents(args.bench)[:: args.every]
    answers = [scorer.answer(document, arm) for arm in args.arms for document in chosen]
    table = summary(answers)
    print(show(table))
    if args.out:
        args.out.write_text(
            json.dumps({"table": table, "answers": [asdict(a) for a in answers]}, indent=1) + "\n"
        )


if __name__ == "__main__":
    main()
