"""python -m scripts.decoders [--only NAME ...] [--state FILE] [--write]: the trial of every family, and the table.

Each family's outcome is kept in a file as soon as it is known, so that a run which was broken off goes on.
"""

from __future__ import annotations

import argparse
import json
import signal
import warnings
from pathlib import Path
from typing import Any

import torch
import transformers

from scripts.decoders.build import build, families
from scripts.decoders.outcomes import write
from scripts.decoders.trial import trial

PATIENCE = 600  # seconds a family, on a machine that does other work too


def main() -> None:
    """Tries what is not known yet and, with --write, writes docs/decoders.md."""
    parser = argparse.ArgumentParser(prog="python -m scripts.decoders", description=__doc__)
    parser.add_argument("--only", nargs="*", help="families to try anew")
    parser.add_argument("--state", type=Path, default=Path("runs/decoders.jsonl"), help="the outcomes so far")
    parser.add_argument("--write", action="store_true", help="write docs/decoders.md")
    parser.add_argument("--no-trials", action="store_true", help="write what is known so far")
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    args.state.parent.mkdir(parents=True, exist_ok=True)
    known = _known(args.state)
    for name, sees in [] if args.no_trials else families():
        if args.only is not None and name not in args.only:
            continue
        if args.only is None and (name, sees) in known:
            continue
        outcome = _tried(name, sees)
        known[name, sees] = outcome
        with args.state.open("a") as out:
            out.write(json.dumps([name, sees, *outcome]) + "\n")
        print(name, "(vision)" if sees else "", *outcome, flush=True)
    if args.write:
        write(Path("docs/decoders.md"), known)


def _known(state: Path) -> dict[tuple[str, bool], tuple[str, str, str]]:
    lines = state.read_text().splitlines() if state.exists() else []
    rows = map(json.loads, lines)
    return {(name, sees): (attention, outcome, detail) for name, sees, attention, outcome, detail in rows}


def _tried(name: str, sees: bool) -> tuple[str, str, str]:
    """(attention, outcome, detail): sdpa where the family has it, else eager."""
    signal.signal(signal.SIGALRM, _too_long)
    for attention in ("sdpa", "eager"):
        signal.alarm(PATIENCE)
        try:
            model: Any = build(name, sees, attention)
        except Exception as error:
            if attention == "sdpa" and "scaled_dot_product_attention" in str(error):
                continue
            return attention, "not built", f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        try:
            return (attention, *trial(model))
        except Exception as error:
            return attention, "wrong", f"{type(error).__name__}: {str(error)[:160]}"
        finally:
            signal.alarm(0)
    raise AssertionError("unreachable")


def _too_long(*_: object) -> None:
    raise TimeoutError(f"took more than {PATIENCE} s")


if __name__ == "__main__":
    main()
