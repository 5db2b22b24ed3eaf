"""What a read-out costs: its time over that of one stock prefill.

    python -m benchmarks.readouts [--json FILE] [--device cuda --dtype bfloat16 --shape 7b] [--repeats 5]

The prompt is the paper's 7B prompt (1,267 tokens, 1,152 of the video), the decoder a Llama with random weights and SDPA
attention. The vocabulary is as many times the width as in a 7B (32,000 to 4,096), since what a lens costs hangs on it;
the depth changes no ratio. Figures are medians of ratios within one run, read-out and prefill in turn: of the
processor's time on a CPU, so that other work beside it counts for little, of the clock's on a GPU. The bytes are what a
read-out returns.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from rich.console import Console
from rich.table import Table
from torch import Tensor
from tqdm import tqdm

from benchmarks.figures import keep, machine, seconds
from lmms_flow.flow import PRESETS
from lmms_flow.trace import (
    GenerationProbability,
    LogitLens,
    VideoAttention,
    attention_to_video,
    generation_probability,
    logit_lens,
    read_out,
)
from lmms_flow.trace.lens import layers_within

# name: width, MLP width, layers, heads
SHAPES = {"small": (512, 1408, 8, 8), "7b": (4096, 11008, 32, 32)}
LETTERS = (10, 11, 12, 13)


def decoder(shape: str, device: str, dtype: torch.dtype) -> Any:
    """A Llama of this shape with random weights."""
    width, mlp, layers, heads = SHAPES[shape]
    config = transformers.LlamaConfig(
        vocab_size=32_000 * width // 4096,
        hidden_size=width,
        intermediate_size=mlp,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=4096,
    )
    torch.manual_seed(0)
    with torch.device(device):
        model = transformers.LlamaForCausalLM._from_config(config, attn_implementation="sdpa", dtype=dtype)
    return model.eval()


def spent(run: Callable[[], Any], device: str) -> float:
    """Seconds: of this process on a CPU, of the clock on a GPU."""
    if device == "cuda":
        return seconds(run, device)
    start = time.process_time()
    run()
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, default=Path("benchmarks/results/readouts.json"))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--shape", choices=tuple(SHAPES), default="small")
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    model = decoder(args.shape, args.device, getattr(torch, args.dtype))
    layout = PRESETS[0].layout()
    tokens = torch.randint(model.config.vocab_size, (1, layout.num_tokens), device=args.device)
    asked = model, {"input_ids": tokens}, layout
    some = layers_within(model, layout)
    readouts: dict[str, Callable[[], Mapping[str, Tensor]]] = {
        "generation probability": lambda: generation_probability(*asked, LETTERS),
        "attention of question, options and last": lambda: attention_to_video(*asked),
        f"logit lens, all {model.config.num_hidden_layers} layers": lambda: logit_lens(*asked),
        f"logit lens, {len(some)} layers": lambda: logit_lens(*asked, layers=some),
        "all three, all layers": lambda: read_out(
            *asked, GenerationProbability([[each] for each in LETTERS]), LogitLens(), VideoAttention()
        ),
    }

    def prefill() -> float:
        with torch.inference_mode():
            return spent(lambda: model(input_ids=tokens, logits_to_keep=1, use_cache=False), args.device)

    prefill()
    rows = []
    for what, read in readouts.items():
        held = sum(each.numel() * each.element_size() for each in read().values())
        pairs = [
            (prefill(), spent(read, args.device)) for _ in tqdm(range(args.repeats), desc=what, leave=False)
        ]
        taken = statistics.median(b for _, b in pairs)
        ratio = statistics.median(b / a for a, b in pairs)
        rows.append(
            {"what": what, "shape": args.shape, "seconds": taken, "prefills": ratio, "bytes": held}
            | {"load": os.getloadavg()[0]}
        )
    report(rows, args)


def report(rows: list[dict[str, Any]], args: argparse.Namespace) -> None:
    """Writes the figures beside those that the file holds of this machine, and prints them."""
    keep(rows, args, lambda one: (one["what"], one["shape"]))
    table = Table("what", "seconds", "prefills", "bytes", title=f"{machine(args)['device']}, {args.shape}")
    for one in rows:
        numbers = f"{one['seconds']:.3f}", f"{one['prefills']:.2f}", f"{one['bytes']:,}"
        table.add_row(one["what"], *numbers)
    Console().print(table)
    print(f"written to {args.json}")


if __name__ == "__main__":
    main()
