"""What the flow map of one question costs: all target sets, all centres, in forwards and seconds.

    python -m benchmarks.map [--json FILE] [--device cuda --dtype bfloat16 --shape 7b] [--repeats 3]

The prompt is the paper's 7B prompt (1,267 tokens), the decoder a Llama with random weights. The peer is one masked SDPA
forward for each knockout and centre, as the paper's code runs it (without its eager attention, attention maps and
vision pass each time): timed once a knockout on a middle window, in turn with the map, and multiplied by the centres.
FLOPs are torch's count. The estimate is of the decoder alone: a question's video and its one vision pass come on top.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
from pathlib import Path
from typing import Any

import torch
import transformers
from tqdm import tqdm

from benchmarks.figures import seconds
from benchmarks.speed import decoder
from lmms_flow.engine import intervene, sweep
from lmms_flow.engine.flops import flop_counter
from lmms_flow.flow import PRESETS, Layout
from lmms_flow.flow.trace_settings import PAPER_WINDOW, TARGET_SETS, TraceSettings

QUESTIONS = 2500  # about TVBench's


def measure(model: Any, layout: Layout, device: str, repeats: int) -> dict[str, float]:
    """The map, one plain forward, and all masked ones; times are medians, the three in turn."""
    settings = TraceSettings()
    knockouts, num_layers = settings.knockouts, model.config.num_hidden_layers
    inputs = {"input_ids": torch.randint(512, (1, layout.num_tokens), device=device)}
    middle = num_layers // 2

    def plain() -> Any:
        return model(**inputs, logits_to_keep=1, use_cache=False)

    def mapped() -> Any:
        return sweep(model, inputs, layout, knockouts, window=PAPER_WINDOW)

    def one_by_one() -> float:
        taken = 0.0
        for knockout in knockouts:
            window = f"{knockout}@{middle - 4}-{middle + 4}"
            with intervene(model, window, layout, engine="dense"):
                taken += seconds(plain, device)
        return taken * float(num_layers)

    with torch.inference_mode():
        plain(), mapped(), one_by_one()  # warm
        times = [
            (seconds(mapped, device), seconds(plain, device), one_by_one())
            for _ in tqdm(range(repeats), desc="map", leave=False)
        ]
        flops = []
        for run in (mapped, plain):
            with flop_counter() as counter:
                run()
            flops.append(counter.get_total_flops())
    taken, forward, masked = (statistics.median(each) for each in zip(*times, strict=True))
    return {
        "knockouts": len(knockouts),
        "centres": num_layers,
        "masked forwards": len(knockouts) * num_layers,
        "seconds, map": taken,
        "seconds, one plain forward": forward,
        "seconds, one masked forward each": masked,
        "times faster": masked / taken,
        "plain forwards in seconds": taken / forward,
        "plain forwards in FLOPs": flops[0] / flops[1],
        f"hours for {QUESTIONS} questions": taken * QUESTIONS / 3600,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, default=Path("benchmarks/results/map.json"))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--shape", choices=("small-512", "7b", "13b"), default="small-512")
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    model = decoder(args.shape, args.device, getattr(torch, args.dtype))
    layout = PRESETS[1 if args.shape == "13b" else 0].layout()
    figures = {
        "shape": args.shape,
        "tokens": layout.num_tokens,
        "target sets": list(TARGET_SETS),
        "window": PAPER_WINDOW,
        **measure(model, layout, args.device, args.repeats),
        "device": torch.cuda.get_device_name() if args.device == "cuda" else platform.machine(),
        "dtype": args.dtype,
        "threads": torch.get_num_threads(),
        "load": os.getloadavg()[0],
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    args.json.parent.mkdir(parents=True, exist_ok=True)
    args.json.write_text(json.dumps(figures, indent=1) + "\n")
    for name, value in figures.items():
        print(f"{name:>34}  {value:,.3f}" if isinstance(value, float) else f"{name:>34}  {value}")


if __name__ == "__main__":
    main()
