"""What it costs to prove which checkpoint was loaded: every byte of its weights is hashed once a run.

    python -m benchmarks.identity [--gigabytes 2] [--device cpu|cuda]

Weights of a 7B model's shapes in bfloat16, as many as asked for; the time for 14 GB is extrapolated where fewer are
hashed. The processor's own seconds leave out what other programs take on a busy machine.
Prints a table and writes benchmarks/results/identity.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from pathlib import Path
from typing import Any

import torch

from lmms_flow.runner.fingerprint import Fingerprints

RESULTS = Path(__file__).parent / "results" / "identity.json"
PAPER = 14e9  # bytes of a 7B checkpoint in bfloat16
SHAPES = (
    (4096, 4096),
    (4096, 4096),
    (4096, 4096),
    (4096, 4096),
    (11008, 4096),
    (11008, 4096),
    (4096, 11008),
    (4096,),
)
REPEATS = 3


def weights(gigabytes: float, device: str) -> list[torch.Tensor]:
    made: list[torch.Tensor] = []
    while sum(one.nbytes for one in made) < gigabytes * 1e9:
        for shape in SHAPES:
            made.append(torch.randn(shape, dtype=torch.bfloat16, device=device))
    return made


def seconds(tensors: list[torch.Tensor], device: str) -> tuple[float, float]:
    """By the clock and of the processor, the best of a few: other programs only ever slow it down."""
    taken = []
    for _ in range(REPEATS):
        if device != "cpu":
            torch.cuda.synchronize()
        start, busy = time.perf_counter(), time.process_time()
        prints = Fingerprints()
        for one in tensors:
            prints.of(one)
        taken.append((time.perf_counter() - start, time.process_time() - busy))
    return min(clock for clock, _ in taken), min(own for _, own in taken)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gigabytes", type=float, default=2.0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    tensors = weights(args.gigabytes, args.device)
    hashed = sum(one.nbytes for one in tensors)
    taken, own = seconds(tensors, args.device)
    result: dict[str, Any] = {
        "machine": torch.cuda.get_device_name() if args.device != "cpu" else platform.machine(),
        "device": args.device,
        "gigabytes": round(hashed / 1e9, 2),
        "seconds": round(taken, 3),
        "gigabytes_a_second": round(hashed / 1e9 / taken, 2),
        "seconds_for_14_gigabytes": round(taken * PAPER / hashed, 2),
        "processor_seconds_for_14_gigabytes": round(own * PAPER / hashed, 2),
        "load": round(os.getloadavg()[0], 1),
        "torch": torch.__version__,
    }
    for name, value in result.items():
        print(f"{name:36} {value}")
    known = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    RESULTS.write_text(json.dumps({**known, args.device: result}, indent=2) + "\n")


if __name__ == "__main__":
    main()
