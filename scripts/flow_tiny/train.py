"""Train flow-tiny from scratch: python -m scripts.flow_tiny.train --out DIR. Run again to go on where it stopped."""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from scripts.flow_tiny.data import Mixture, Stream
from scripts.flow_tiny.edges import EdgeDropout
from scripts.flow_tiny.labels import SIZES
from scripts.flow_tiny.losses import WEIGHTS, Losses, step_losses
from scripts.flow_tiny.model import TrainingHeads, build_model
from scripts.flow_tiny.text import build_tokenizer


def learning_rate(step: int, steps: int, peak: float, warmup: int = 100, decay: float = 0.35) -> float:
    """Warm up, hold, fall linearly to nothing over the last part."""
    return peak * min(1.0, (step + 1) / warmup, (steps - step) / (decay * steps))


@dataclass(frozen=True)
class Settings:
    """What a run of the script uses unless told otherwise, and what flow-tiny was made with."""

    seed: int = 0
    steps: int = 2100
    peak: float = 1.5e-3  # highest learning rate
    threads: int = 1  # more than one waits for the slowest wherever other work runs
    edge_dropout: bool = True  # which edges are cut is drawn for each clip; otherwise none is


DEFAULTS = Settings()


class Trainer:
    """Model, heads and optimizer, with everything that a checkpoint holds."""

    def __init__(self, settings: Settings = DEFAULTS, mixture: Mixture | None = None):
        torch.manual_seed(settings.seed)
        self.tokenizer = build_tokenizer()
        self.model = build_model(self.tokenizer)
        self.heads = TrainingHeads(SIZES)
        dropout = EdgeDropout() if settings.edge_dropout else None
        self.stream = Stream(self.tokenizer, settings.seed, mixture, dropout)
        self.peak, self.steps, self.step, self.seconds = settings.peak, settings.steps, 0, 0.0
        params = [*self.model.parameters(), *self.heads.parameters()]
        matrices = [p for p in params if p.ndim > 1]
        others = [p for p in params if p.ndim <= 1]
        self.optimizer = torch.optim.AdamW(
            [{"params": matrices, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}],
            lr=settings.peak, betas=(0.9, 0.98),
        )  # fmt: skip

    def train_step(self) -> Losses:
        self.model.train()
        began = time.perf_counter()
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.step, self.steps, self.peak)
        losses = step_losses(self.model, self.heads, self.stream.batch(self.step), self.stream.prefix_ids)
        loss = torch.stack([WEIGHTS[name] * value for name, value in losses.total.items()]).sum()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_([*self.model.parameters(), *self.heads.parameters()], 1.0)
        self.optimizer.step()
        self.step += 1
        self.seconds += time.perf_counter() - began
        return losses

    def save(self, path: Path) -> None:
        state = {
            "model": self.model.state_dict(),
            "heads": self.heads.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
        }
        torch.save(state, path.with_suffix(".part"))
        path.with_suffix(".part").replace(path)

    def load(self, path: Path) -> None:
        state = torch.load(path, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.heads.load_state_dict(state["heads"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.seconds = state["step"], state["seconds"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of the checkpoint and the log")
    for name, default in asdict(DEFAULTS).items():
        flag = f"--{name.replace('_', '-')}"
        if isinstance(default, bool):
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, default=default)
        else:
            parser.add_argument(flag, type=type(default), default=default)
    parser.add_argument("--log-every", type=int, default=25)
    parser.add_argument("--save-every", type=int, default=200)
    args = parser.parse_args()
    settings = Settings(**{name: getattr(args, name) for name in asdict(DEFAULTS)})
    torch.set_num_threads(settings.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    trainer = Trainer(settings)
    checkpoint = args.out / "checkpoint.pt"
    if checkpoint.exists():
        trainer.load(checkpoint)
    forget(args.out / "log.jsonl", trainer.step)
    run(trainer, args.out, args.log_every, args.save_every)


def forget(log: Path, step: int) -> None:
    """Drop what was logged after the checkpoint: it comes again."""
    if log.exists():
        lines = log.read_text().splitlines(keepends=True)
        log.write_text("".join(line for line in lines if json.loads(line)["step"] <= step))


def run(trainer: Trainer, out: Path, log_every: int, save_every: int) -> None:
    sums: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    with (out / "log.jsonl").open("a") as log:
        while trainer.step < trainer.steps:
            losses = trainer.train_step()
            for name, value in losses.total.items():
                sums[f"loss/{name}"][0] += float(value.detach())
                sums[f"loss/{name}"][1] += 1
            for name, (right, count) in losses.right.items():
                sums[name][0] += right
                sums[name][1] += count
            if trainer.step % log_every == 0:
                row = {name: round(a / b, 4) for name, (a, b) in sorted(sums.items()) if b}
                log.write(json.dumps({"step": trainer.step, "seconds": round(trainer.seconds), **row}) + "\n")
                log.flush()
                sums.clear()
            if trainer.step % save_every == 0 or trainer.step == trainer.steps:
                trainer.save(out / "checkpoint.pt")


if __name__ == "__main__":
    main()
