"""Attention alone at growing lengths: masked SDPA, strips and FlexAttention beside plain causal SDPA.

    python -m benchmarks.long [--json FILE] [--tokens 512 1267 ...] [--shapes small 7b]
                              [--device cuda --dtype bfloat16 --tokens 65536 --shapes 7b] [--repeats 3]

The prompt is the paper's 7B prompt with more frames, the flows are its pathways. Each layer of a pathway runs on the
rows that live in it, with random states; layers alike are timed once and counted as often as they come. `causal` is
what the stock model pays: SDPA over all rows in all layers, without a mask; `masked` is SDPA with a dense mask of the
live rows. All are timed in turn; figures are medians over the repeats, and medians of ratios. Masks are built, and
FlexAttention compiled, before the clock runs.
"""

from __future__ import annotations

import argparse
import os
import statistics
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers.integrations.flex_attention import flex_attention_forward

from benchmarks.figures import keep, seconds
from lmms_flow.engine import RowPlan
from lmms_flow.engine.flex import block_mask
from lmms_flow.engine.strips import Strips, attend_in_strips, dense_mask
from lmms_flow.flow import PRESETS, Flow, Layout

SHAPES = {"small": (8, 64), "7b": (32, 128)}  # heads, width of a head
FLOWS = ("effective-llava-next-7b", "effective-llava-next-7b-closed")
LAYERS = 32
LENGTHS = {"small": (512, 1267, 2048, 4096, 8192, 16384), "7b": (512, 1267, 2048, 4096, 8192)}
MODULE = torch.nn.Module().eval()  # stands for the model's attention module

Run = Callable[[], Any]
States = tuple[Tensor, Tensor, Tensor]  # query, key, value [batch, head, row, width]


def layers_of(flow: str, layout: Layout) -> Counter[Strips]:
    """The attention of each layer, and how many layers are like it."""
    plan = RowPlan(Flow.load(flow).bind(LAYERS).resolve(layout), undropped=1)
    return Counter(plan.strips(layer) for layer in range(1, LAYERS + 1))


def runs(layers: Counter[Strips], states: States, masked: bool) -> Iterator[tuple[str, int, Run]]:
    """(way, how many layers of the model are like this, its attention) of each layer that has to be timed."""
    yield "causal", LAYERS, lambda: scaled_dot_product_attention(*states, is_causal=True)
    device, dtype = states[0].device, states[0].dtype
    for strips, times in layers.items():
        live = first_rows(states, strips.num_keys)
        blocks = block_mask(strips.blocks, 0, device)
        yield "strips", times, partial(attend_in_strips, MODULE, *live, strips)
        yield "flex", times, partial(flex_attention_forward, MODULE, *live, blocks)
        if masked:
            mask = dense_mask(strips, device, dtype)
            yield "masked", times, partial(scaled_dot_product_attention, *live, attn_mask=mask)


def first_rows(states: States, rows: int) -> States:
    query, key, value = states
    return query[:, :, :rows], key[:, :, :rows], value[:, :, :rows]


def measure(flow: str, shape: str, num_tokens: int, args: argparse.Namespace) -> dict[str, Any]:
    """Seconds of all layers' attention by each way, and how many times faster than `causal` it is."""
    heads, width = SHAPES[shape]
    layers = layers_of(flow, PRESETS[0].layout(num_tokens))
    dtype = getattr(torch, args.dtype)
    query, key, value = (
        torch.randn(1, heads, num_tokens, width, device=args.device, dtype=dtype) for _ in range(3)
    )
    states = (query, key, value)
    todo = list(runs(layers, states, masked=num_tokens <= args.masked_up_to))
    compiling = sum(seconds(run, args.device) for way, _, run in todo if way == "flex")

    def once() -> Counter[str]:
        taken: Counter[str] = Counter()
        for way, times, run in todo:
            taken[way] += seconds(run, args.device) * times  # type: ignore[assignment]
        return taken

    repeats = [once() for _ in range(args.repeats)]
    ways = list(repeats[0])
    return {
        "flow": flow,
        "shape": shape,
        "tokens": num_tokens,
        "seconds": {way: statistics.median(r[way] for r in repeats) for way in ways},
        "times faster": {
            way: statistics.median(r["causal"] / r[way] for r in repeats) for way in ways if way != "causal"
        },
        "first flex calls, seconds": compiling,
        "repeats": args.repeats,
        "load": os.getloadavg()[0],
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, default=Path("benchmarks/results/long.json"))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--shapes", nargs="+", choices=tuple(SHAPES), default=list(SHAPES))
    parser.add_argument("--tokens", nargs="+", type=int, help="instead of a shape's own lengths")
    parser.add_argument(
        "--masked-up-to", type=int, default=16384, help="tokens with a dense mask (quadratic)"
    )
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    with torch.inference_mode():
        for shape in args.shapes:
            for num_tokens in args.tokens or LENGTHS[shape]:
                for flow in FLOWS:
                    figures = keep([measure(flow, shape, num_tokens, args)], args, place, order=place)
    draw(figures)
    print(f"written to {args.json}")


def place(figure: dict[str, Any]) -> tuple[int, int, int]:
    return list(SHAPES).index(figure["shape"]), figure["tokens"], FLOWS.index(figure["flow"])


def draw(figures: list[dict[str, Any]]) -> None:
    ways = ("masked", "strips", "flex")
    table = Table(
        "shape", "tokens", "flow", "causal, s", *ways, title="attention alone, times faster than causal"
    )
    for one in figures:
        ratios = [f"{one['times faster'][way]:.2f}" if way in one["times faster"] else "-" for way in ways]
        table.add_row(
            one["shape"], str(one["tokens"]), one["flow"], f"{one['seconds']['causal']:.2f}", *ratios
        )
    Console().print(table)


if __name__ == "__main__":
    main()
