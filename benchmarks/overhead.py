"""What lmms-flow adds to a run: at the start of lmms-eval, for each sample on the host, in memory and to the prefill.

    python -m benchmarks.overhead [--json FILE] [--width 512] [--layers 8] [--repeats 7]

Prints a table and writes JSON with the machine, the versions and the figures. The prefill is compared within one
run, in turn: the stock model with SDPA and no mask, the same through masked kernels (sham), and one knockout, on the
paper's prompt of 1,267 tokens with random weights.
"""

from __future__ import annotations

import argparse
import gc
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
from transformers import AutoTokenizer

from lmms_flow import assets
from lmms_flow.engine import RowPlan, decoder_layers, find_decoder, intervene
from lmms_flow.engine.contract import Contract
from lmms_flow.engine.hooks import Handles, MaskWatch, has_foreign_hooks
from lmms_flow.engine.layer_call import LayerCall, ModelCall
from lmms_flow.engine.mechanisms import check_mechanisms
from lmms_flow.engine.model_state import ModelState
from lmms_flow.flow import PRESETS, Flow
from lmms_flow.inputs.groups import EncodedPrompt, find_groups
from lmms_flow.inputs.paper_prompt import PAPER_SYSTEM

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
    """Finding the groups, resolving the closed 7B pathway and planning its rows, for ever new questions."""
    flow = Flow.load("effective-llava-next-7b-closed")
    tokenizer = AutoTokenizer.from_pretrained(assets.flow_tiny_dir())
    questions = iter(range(repeats + 1))

    def plan() -> None:
        words = " ".join(["left"] * (next(questions) + 1))
        user = (
            f"Question: Which way does it go?\nOptions:\n(A) {words}\n(B) right \nOnly give the best option."
        )
        resolved = flow.bind(32).resolve(find_groups(paper_prompt(tokenizer, user), user, {}, flow).layout)
        plan = RowPlan(resolved, 1)
        for layer in range(1, 33):
            plan.rows(layer), plan.rows_read_by_last(layer), plan.strips(layer)

    return milliseconds(plan, repeats)


def paper_prompt(tokenizer: Any, user: str) -> EncodedPrompt:
    """A prompt of the paper's form around 8 frames of 144 tokens, from a tokenizer's offsets."""
    text = f"{PAPER_SYSTEM}\n USER: <image>\n USER: {user} ASSISTANT:Best option:("
    out = tokenizer(text, return_offsets_mapping=True)
    ids, offsets = list(out["input_ids"]), [tuple(pair) for pair in out["offset_mapping"]]
    at, count = ids.index(tokenizer.convert_tokens_to_ids("<image>")), 8 * 144
    frames = tuple(range(start, start + 144) for start in range(at, at + count, 144))
    spread = (*offsets[:at], *[offsets[at]] * count, *offsets[at + 1 :])
    tokens = (*ids[:at], *[ids[at]] * count, *ids[at + 1 :])
    return EncodedPrompt(text, tokens, spread, range(at, at + count), frames)


def mask_mebibytes() -> dict[str, float]:
    """Boolean tensors that are alive behind a prefill of 32 layers of the paper's 7B prompt, and a decoded token."""
    model, layout = decoder(64, 32), PRESETS[0].layout()
    tokens = torch.randint(512, (1, layout.num_tokens))
    held = {}
    for name in ("effective-llava-next-7b", "effective-llava-next-7b-closed", "blind", "cross_frame@1-16"):
        before = boolean_bytes()
        with intervene(model, name, layout), torch.inference_mode():
            model.generate(
                input_ids=tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=2, do_sample=False
            )
            held[f"masks held, {name}, MiB"] = (boolean_bytes() - before) / 2**20
    return held


def boolean_bytes() -> int:
    """Of all boolean tensors that are alive."""
    gc.collect()
    masks = [each for each in gc.get_objects() if type(each) is torch.Tensor and each.dtype == torch.bool]
    return sum({mask.data_ptr(): mask.untyped_storage().nbytes() for mask in masks}.values())


def decoder(width: int, layers: int) -> Any:
    """A Llama with random weights, SDPA attention."""
    config = transformers.LlamaConfig(
        vocab_size=512,
        hidden_size=width,
        intermediate_size=width * 11 // 4,
        num_hidden_layers=layers,
        num_attention_heads=max(1, width // 64),
        num_key_value_heads=max(1, width // 64),
        eos_token_id=None,
    )
    torch.manual_seed(0)
    return transformers.LlamaForCausalLM._from_config(config, attn_implementation="sdpa").eval()


def prefill_milliseconds(width: int, layers: int, repeats: int) -> dict[str, float]:
    """One prefill of a Llama-like decoder under each flow, in turn within one run: medians."""
    model = decoder(width, layers)
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


def check_milliseconds(repeats: int) -> dict[str, float]:
    """What is checked at each forward and each block: 32 layers, the paper's prompt, the model's own work left out."""
    model, layout = decoder(64, 32), PRESETS[0].layout()
    inner = find_decoder(model)
    resolved = [Flow.load("blind").bind(32).resolve(layout)]
    contract, cache = Contract(inner, resolved), transformers.DynamicCache()
    states = torch.zeros(1, layout.num_tokens, 64)
    handles, watch = Handles(), MaskWatch()
    for layer in decoder_layers(inner):
        handles.before(layer, lambda *call: None)
    attentions: list[Any] = [layer.self_attn for layer in decoder_layers(inner)]

    def forward(new: int) -> None:
        past = cache.get_seq_length()
        mask = torch.ones(1, past + new, dtype=torch.long)
        given = {"inputs_embeds": states[:, :new], "attention_mask": mask, "cache": cache}
        handles.stay_last()
        watch.look(attentions)
        contract.check(ModelCall.of_decoder(inner, (), given))
        for number, layer in enumerate(decoder_layers(inner), 1):
            call = LayerCall.read(layer, (states[:, :new],), {"attention_mask": None, "cache": cache})
            contract.ran(number, call)
        if not past:
            key = torch.zeros(1, 1, layout.num_tokens, 64)
            cache.update(key, key, 0)
        contract.done()

    def prefill() -> None:
        cache.reset()
        has_foreign_hooks(model)
        forward(layout.num_tokens)

    def token() -> None:
        forward(1)

    return {
        "checks of a prefill, ms": milliseconds(prefill, repeats),
        "checks of a decoded token, ms": milliseconds(token, repeats),
        "looking at a model's layers, a block, ms": milliseconds(lambda: check_mechanisms(model), repeats),
        "whether a baseline's model is as it was, ms": milliseconds(lambda: ModelState.of(inner), repeats),
    }


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
        "groups, resolving and planning of one prompt, ms": planning_milliseconds(30),
        **mask_mebibytes(),
        **check_milliseconds(30),
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
