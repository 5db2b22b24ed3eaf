"""A flowbench of made clips."""

from __future__ import annotations

import json
from pathlib import Path

from lmms_flow.tasks.flowbench import rows as flowbench
from tests.support.clips import write_clip


def made_flowbench(folder: Path, rows: int = 3) -> None:
    """A flowbench in the bundled one's layout, of made clips."""
    (folder / "clips").mkdir(parents=True)
    for family in flowbench.FAMILIES:
        with (folder / f"{family}.jsonl").open("w") as file:
            for i in range(rows):
                write_clip(folder / "clips" / f"{family}-{i}.mp4", frames=10, seed=i)
                row = {
                    "id": f"{family}-{i}",
                    "video": f"clips/{family}-{i}.mp4",
                    "question": "Which way does the square move?",
                    "candidates": ["Left.", "Right."],
                    "answer": "Right.",
                    "answer_letter": "B",
                    "pair": None,
                    "family": family,
                }
                file.write(json.dumps(row) + "\n")
