"""What lmms-flow adds to a run: at the start of lmms-eval, for each sample on the host, and in the masked prefill.

    python benchmarks/overhead.py [--json FILE] [--width 512] [--layers 8] [--repeats 7]

Prints a table and writes JSON with the machine, the versions and the figures. The prefill is compared within one
run, in turn: the stock model with SDPA and no mask, the same through masked kernels (sham), and one knockout, on the
paper's prompt of 1,267 tokens with random weights.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from rich.console import Console
from rich.table import Table

from lmms_flow.engine import intervene
from lmms_flow.flow import PRESETS, Flow, prompt_layout

STEADY_IMPORT = "import lmms_eval.models"


def milliseconds(run: Callable[[], Any], repeats: int) -> float:
    """The median of `repeats` runs, after one that is not counted."""
    run()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append((time.perf_counter() - start) * 1000)
    return statistics.median(times)


def plugin_milliseconds() -> float:
    """What loading our entry point adds to `import lmms_eval.models`, in a fresh process."""
    code = (
        f"import time; {STEADY_IMPORT}\n"
        "import sys, importlib.metadata as m\n"
        "for name in [n for n in sys.modules if n.startswith('lmms_flow')]: del sys.modules[name]\n"
        "torch_before = 'torch' in sys.modules\n"
        "start = time.perf_counter()\n"
        "(e,) = [e for e in m.entry_points(group='lmms_eval.models') if e.name == 'lmms_flow']\n"
        "e.load()(); print((time.perf_counter() - start) * 1000, torch_before or 'torch' not in sys.modules)\n"
    )
    rows = [
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout.split()
        for _ in range(5)
    ]
    assert all(row[-1] == "True" for row in rows), "the plug-in imported torch"
    return statistics.median(float(row[-2]) for row in rows)


def planning_milliseconds(repeats: int) -> float:
    """Resolving the paper's 7B pathway on prompts of ever new lengths: no sample finds another's work."""
    flow = Flow.load("effective-llava-next-7b")
    lengths = iter(range(20, 20 + repeats + 1))

    def plan() -> None:
        layout = prompt_layout(
            system=53, frames=8, tokens_per_frame=144, gap=5, question=next(lengths), tail=15
        )
        flow.bind(32).resolve(layout).kept_edges()

    return milliseconds(plan, repeats)


def prefill_milliseconds(width: int, layers: int, repeats: int) -> dict[str, float]:
    """One prefill of a Llama-like decoder under each flow, in turn within one run: medians."""
    config = transformers.LlamaConfig(
        vocab_size=512,
        hidden_size=width,
        intermediate_size=width * 11 // 4,
        num_hidden_layers=layers,
        num_attention_heads=max(1, width // 64),
        num_key_value_heads=max(1, width // 64),
    )
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM._from_config(config, attn_implementation="sdpa").eval()
    layout = PRESETS[0].layout()
    tokens = torch.randint(512, (1, layout.num_tokens))
    third = max(1, layers // 3)
    flows = {
        "stock, no mask": "none",
        "sham": "sham",
        "cross_frame, a third of the layers": f"cross_frame@1-{third}",
    }
    times: dict[str, list[float]] = {name: [] for name in flows}
    with torch.inference_mode():
        for turn in range(repeats + 1):
            for name, flow in flows.items():
                with intervene(model, flow, layout):
                    start = time.perf_counter()
                    model(input_ids=tokens, logits_to_keep=1)
                    if turn:  # the first is a warm-up
                        times[name].append((time.perf_counter() - start) * 1000)
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, default=Path("benchmarks/results/overhead.json"))
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=7)
    args = parser.parse_args()
    prefill = prefill_milliseconds(args.width, args.layers, args.repeats)
    stock = prefill["stock, no mask"]
    figures: dict[str, float] = {
        "plug-in at the start of lmms-eval, ms": plugin_milliseconds(),
        "resolving a flow on one prompt, ms": planning_milliseconds(30),
        **{f"prefill, {name}, ms": value for name, value in prefill.items()},
        **{
            f"prefill, {name}, against stock": value / stock
            for name, value in prefill.items()
            if value is not stock
        },
    }
    machine = {
        "cpu": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": os.getloadavg()[0],
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "shape": {"width": args.width, "layers": args.layers, "tokens": PRESETS[0].layout().num_tokens},
    }
    args.json.parent.mkdir(parents=True, exist_ok=True)
    args.json.write_text(json.dumps({"machine": machine, "figures": figures}, indent=1) + "\n")
    table = Table(
        "figure",
        "value",
        title=f"{machine['cores']} cores, torch {machine['torch']}, load {machine['load']:.1f}",
    )
    for name, value in figures.items():
        table.add_row(name, f"{value:.2f}")
    Console().print(table)
    print(f"written to {args.json}")


if __name__ == "__main__":
    main()
