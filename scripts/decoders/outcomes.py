"""docs/decoders.md from the outcomes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from datetime import date
from pathlib import Path

import torch
import transformers

from scripts.decoders.build import families

HEAD = """# Decoder families

Written by `python -m scripts.decoders --write` on {day}, with transformers {transformers} and torch {torch}, on a CPU
in fp32. Every family of `AutoModelForCausalLM` and `AutoModelForImageTextToText` that can be built tiny was tried with
random weights and a prompt of 27 text tokens. A family is **exact** where both engines equal masks put on by hand, in
prefill and in a decoded step (within 2e-5 of the largest logit), where a sweep equals one masked forward a knockout,
the self-check passes, and the ledger is within 1 % of a count of the operators that ran, or is not given. It is
**refused** where entering `intervene` raises UnsupportedModelError, for the reason that is given.

{counts}

| family | class | attention | outcome | logits / sweep / ledger, or why it is refused |
|---|---|---|---|---|
"""


def write(path: Path, outcomes: Mapping[tuple[str, bool], tuple[str, str, str]]) -> None:
    """Writes the table; families that could not be built are named below it."""
    tried = {key: row for key, row in outcomes.items() if row[1] != "not built"}
    counts = Counter(row[1] for row in tried.values())
    head = HEAD.format(
        day=date.today().isoformat(),
        transformers=transformers.__version__,
        torch=torch.__version__.split("+")[0],
        counts=f"{len(tried)} were tried: "
        + ", ".join(f"{n} {kind}" for kind, n in sorted(counts.items()))
        + ".",
    )
    rows = [
        f"| {name} | {'image or video' if sees else 'text'} | {attention} | {outcome} | {_cell(detail)} |"
        for (name, sees), (attention, outcome, detail) in sorted(tried.items())
    ]
    waiting = [name for name, sees in families() if (name, sees) not in outcomes]
    left = sorted((name, sees, row[2]) for (name, sees), row in outcomes.items() if row[1] == "not built")
    tail = "\n"
    if left:
        tail += (
            f"\n{len(left)} were not tried: transformers {transformers.__version__} can't build them from small "
            "sizes, or what it builds can't read a prompt of text alone. What it says:\n\n"
            + "\n".join(
                f"- {name}{' (image or video)' if sees else ''}: {_cell(why)}" for name, sees, why in left
            )
            + "\n"
        )
    if waiting:
        tail += "\nNot tried yet (the run goes on where it was): " + ", ".join(sorted(set(waiting))) + ".\n"
    path.write_text(head + "\n".join(rows) + tail)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")[:260]
