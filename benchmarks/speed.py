"""How much a cut saves: the sparse engine's prefill and the one-walk sweep, against the strongest thing beside them.

    python -m benchmarks.speed [--json FILE] [--device cuda --dtype bfloat16 --shape 7b] [--tokens 20000] [--repeats 5]

The prompt is the paper's 7B prompt (1,267 tokens), the decoder a Llama with random weights. The peers are the stock
model with SDPA and no mask (prefill and decoding), the same arms in a run each (arms), and one masked SDPA forward a
knockout and window (sweep; timed on a middle window of each knockout, in turn with the sweep). Figures are medians of
ratios: more than 1 is faster than the peer. Beside a prefill stands how far its last logits lie from those of the dense
reference, relative to the largest, and how far those of `sham` (masked kernels, nothing cut) lie from the stock
model's: the noise of these weights in this precision. With `--tokens` the prompt holds more frames, and prefills alone
are timed.
"""

from __future__ import annotations

import argparse
import os
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from rich.console import Console
from rich.table import Table
from torch import Tensor
from tqdm import tqdm
from transformers import DynamicCache

from benchmarks.figures import keep, machine, seconds
from lmms_flow.engine import Baseline, intervene, sweep
from lmms_flow.engine.layer_call import cache_in, going_on_from
from lmms_flow.flow import PRESETS, Flow, Layout

# name: width, MLP width, layers, heads
SHAPES = {
    "small-512": (512, 1408, 32, 8),
    "small-1024": (1024, 2816, 32, 16),
    "small-1024-40": (1024, 2816, 40, 16),
    "7b": (4096, 11008, 32, 32),
    "13b": (5120, 13824, 40, 40),
}
DENSE_UP_TO = 8192  # tokens: a layer's dense mask grows with their square
SWEEP = ("video:question", "video:last", "question:last", "last:last")
ARMS = ("cross_frame@first_half", "cross_frame@second_half", "blind", "effective-llava-next-7b-closed")


def decoder(shape: str, device: str, dtype: torch.dtype) -> Any:
    """A Llama of this shape with random weights, SDPA attention."""
    width, mlp, layers, heads = SHAPES[shape]
    config = transformers.LlamaConfig(
        vocab_size=512,
        hidden_size=width,
        intermediate_size=mlp,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
    )
    torch.manual_seed(0)
    with torch.device(device):
        model = transformers.LlamaForCausalLM._from_config(config, attn_implementation="sdpa", dtype=dtype)
    return model.eval()


def prefill_ratio(model: Any, flow: str, layout: Layout, device: str, repeats: int) -> tuple[float, float]:
    """(stock seconds, median of stock over sparse), the two in turn."""
    tokens = torch.randint(512, (1, layout.num_tokens), device=device)

    def once(text: str) -> float:
        with intervene(model, text, layout, engine="sparse"), torch.inference_mode():
            return seconds(lambda: model(input_ids=tokens, logits_to_keep=1), device)

    once("none"), once(flow)
    pairs = [(once("none"), once(flow)) for _ in tqdm(range(repeats), desc=f"prefill, {flow}", leave=False)]
    return statistics.median(a for a, _ in pairs), statistics.median(a / b for a, b in pairs)


def differences(model: Any, flow: str, layout: Layout, device: str) -> dict[str, float]:
    """How far the sparse engine's last logits lie from the dense engine's, and `sham` from the stock model."""
    tokens = torch.randint(512, (1, layout.num_tokens), device=device)

    def last(text: str, engine: str) -> Tensor:
        with intervene(model, text, layout, engine=engine), torch.inference_mode():
            logits: Tensor = model(input_ids=tokens, logits_to_keep=1).logits[0, -1].float()
        return logits

    def apart(a: Tensor, b: Tensor) -> float:
        return float((a - b).abs().max() / b.abs().max())

    return {
        "logits, sparse from dense": apart(last(flow, "sparse"), last(flow, "dense")),
        "logits, sham from none": apart(last("sham", "dense"), last("none", "sparse")),
    }


def decoding_ratio(
    model: Any, flow: str, layout: Layout, device: str, repeats: int, steps: int = 32
) -> tuple[float, float]:
    """(stock seconds a token, median of stock over sparse) of greedy decoding behind the prompt."""
    tokens = torch.randint(512, (1, layout.num_tokens), device=device)

    def once(text: str) -> float:
        with intervene(model, text, layout), torch.inference_mode():
            out = model(input_ids=tokens, logits_to_keep=1, **going_on_from(model, DynamicCache()))

            cache = going_on_from(model, cache_in(out))

            def decode() -> None:
                last = out.logits[:, -1].argmax(-1, keepdim=True)
                for _ in range(steps):
                    step = model(input_ids=last, logits_to_keep=1, **cache)
                    last = step.logits[:, -1].argmax(-1, keepdim=True)

            return seconds(decode, device) / steps

    once("none"), once(flow)
    pairs = [(once("none"), once(flow)) for _ in tqdm(range(repeats), desc=f"decoding, {flow}", leave=False)]
    return statistics.median(a for a, _ in pairs), statistics.median(a / b for a, b in pairs)


def arms_ratio(
    model: Any, flows: Sequence[str], layout: Layout, device: str, repeats: int
) -> tuple[float, float]:
    """(seconds of one run each, median of that over one run in which they go on from full attention's states)."""
    tokens = torch.randint(512, (1, layout.num_tokens), device=device)
    resolved = [Flow.load(flow).bind(model.config.num_hidden_layers).resolve(layout) for flow in flows]

    def prefill(flow: str, baseline: Baseline | None) -> None:
        with intervene(model, flow, layout, baseline=baseline):
            model(input_ids=tokens, logits_to_keep=1, **going_on_from(model, DynamicCache()))

    def apart() -> None:
        for flow in ("none", *flows):
            prefill(flow, None)

    def together() -> None:
        baseline = Baseline.for_flows(resolved)
        with baseline.recording(model):
            prefill("none", None)
        for flow in flows:
            prefill(flow, baseline)

    with torch.inference_mode():
        pairs = [
            (seconds(apart, device), seconds(together, device))
            for _ in tqdm(range(repeats), desc="arms", leave=False)
        ]
    return statistics.median(a for a, _ in pairs), statistics.median(a / b for a, b in pairs)


def sweep_ratio(
    model: Any, knockouts: tuple[str, ...], layout: Layout, device: str, repeats: int
) -> tuple[float, float]:
    """(seconds of the sweep, median of one masked forward each over the sweep)."""
    tokens = torch.randint(512, (1, layout.num_tokens), device=device)
    num_layers: int = model.config.num_hidden_layers

    def forked() -> float:
        return seconds(lambda: sweep(model, {"input_ids": tokens}, layout, knockouts), device)

    def one_by_one() -> float:
        """One masked forward of each knockout in a middle window, scaled to all windows."""
        taken = 0.0
        for knockout in knockouts:
            middle = num_layers // 2
            with (
                intervene(model, f"{knockout}@{middle - 4}-{middle + 4}", layout, engine="dense"),
                torch.inference_mode(),
            ):
                taken += seconds(lambda: model(input_ids=tokens, logits_to_keep=1), device)
        return taken * num_layers

    forked(), one_by_one()
    name = "+".join(knockouts)
    pairs = [(one_by_one(), forked()) for _ in tqdm(range(repeats), desc=f"sweep, {name}", leave=False)]
    return statistics.median(b for _, b in pairs), statistics.median(a / b for a, b in pairs)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, default=Path("benchmarks/results/speed.json"))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--shape", choices=("small", "7b", "13b"), default="small")
    parser.add_argument("--tokens", type=int, help="a longer prompt than the paper's; with --shape 7b")
    parser.add_argument("--repeats", type=int, default=5)
    return parser.parse_args()


def main() -> None:
    args = arguments()
    dtype = getattr(torch, args.dtype)
    small = args.shape == "small"
    layout_7b = PRESETS[0].layout(args.tokens)
    num_tokens = layout_7b.num_tokens
    seven, thirteen = ("small-1024", "small-1024-40") if small else ("7b", "13b")
    rows: list[dict[str, Any]] = []

    def row(what: str, shape: str, taken: float, ratio: float, **more: float) -> None:
        figure = {"seconds": taken, "times faster": ratio, **more, "load": os.getloadavg()[0]}
        rows.append({"what": what, "shape": shape, "tokens": num_tokens, **figure})

    def prefill(model: Any, name: str, shape: str, layout: Layout) -> None:
        taken, ratio = prefill_ratio(model, name, layout, args.device, args.repeats)
        off = differences(model, name, layout, args.device) if layout.num_tokens < DENSE_UP_TO else {}
        row(f"prefill, {name}", shape, taken, ratio, **off)

    paper = PRESETS[0].layout()
    if args.shape in ("small", "7b"):
        model = decoder(seven, args.device, dtype)
        for name in ("effective-llava-next-7b-closed", "effective-llava-next-7b"):
            prefill(model, name, seven, layout_7b)
        if args.tokens:
            report(rows, args)
            return
        closed = "effective-llava-next-7b-closed"
        row(f"decoding, {closed}", seven, *decoding_ratio(model, closed, paper, args.device, args.repeats))
        row(f"arms, none {' '.join(ARMS)}", seven, *arms_ratio(model, ARMS, paper, args.device, args.repeats))
        if small:
            model = decoder("small-512", args.device, dtype)
        for knockouts in (SWEEP, (*SWEEP, "cross_frame")):
            shape = "small-512" if small else seven
            taken, ratio = sweep_ratio(model, knockouts, paper, args.device, args.repeats)
            row(f"sweep, {' '.join(knockouts)}", shape, taken, ratio)
    if args.shape in ("small", "13b"):
        model = decoder(thirteen, args.device, dtype)
        name = "effective-llava-next-13b-closed"
        prefill(model, name, thirteen, PRESETS[1].layout())
    report(rows, args)


def report(rows: list[dict[str, Any]], args: argparse.Namespace) -> None:
    """Writes the figures beside those that the file holds of this machine, and prints them."""
    keep(rows, args, place)
    table = Table("what", "shape", "tokens", "seconds", "times faster", title=machine(args)["device"])
    for one in rows:
        numbers = f"{one['tokens']:,}", f"{one['seconds']:.3f}", f"{one['times faster']:.2f}"
        table.add_row(one["what"], one["shape"], *numbers)
    Console().print(table)
    print(f"written to {args.json}")


def place(row: dict[str, Any]) -> tuple[str, str, int]:
    return row["what"], row["shape"], row["tokens"]


if __name__ == "__main__":
    main()
