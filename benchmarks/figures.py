"""What the benchmarks on a device share: a clock that waits for it, and a file of figures of one machine."""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable
from typing import Any

import torch
import transformers

Figure = dict[str, Any]


def seconds(run: Callable[[], Any], device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    run()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def machine(args: argparse.Namespace) -> dict[str, Any]:
    """What figures must have in common to stand in one file; `args` has the device and the dtype."""
    return {
        "device": torch.cuda.get_device_name() if args.device == "cuda" else platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "dtype": args.dtype,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def keep(
    figures: list[Figure],
    args: argparse.Namespace,
    place: Callable[[Figure], Any],
    order: Callable[[Figure], Any] | None = None,
) -> list[Figure]:
    """Writes figures into `args.json`, each in the place of an earlier one of this machine; returns all it holds.

    Args:
        figures: the new ones.
        args: the file, the device and the dtype.
        place: two figures of the same place are of the same thing.
        order: what the file is sorted by; as they came where there is none.
    """
    own = machine(args)
    earlier = json.loads(args.json.read_text()) if args.json.exists() else {}
    held = {place(one): one for one in earlier["figures"]} if earlier.get("machine") == own else {}
    held |= {place(one): one for one in figures}
    kept = list(held.values()) if order is None else sorted(held.values(), key=order)
    args.json.parent.mkdir(parents=True, exist_ok=True)
    args.json.write_text(json.dumps({"machine": own, "figures": kept}, indent=1) + "\n")
    return kept
