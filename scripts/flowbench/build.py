"""Write the benchmark: python -m scripts.flowbench.build [--out DIR] [--family NAME] [--limit GROUPS]."""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from scripts.flowbench.encode import encode
from scripts.flowbench.groups import Group, all_groups
from scripts.flowbench.questions import FAMILIES, LETTERS, answer_value
from scripts.flowbench.render import render

SHIPPED = Path(__file__).parents[2] / "lmms_flow" / "assets" / "flowbench"


def documents(family: str, number: int, group: Group) -> list[dict[str, object]]:
    """One document a clip; its clip's file bears its id."""
    ids = [f"{family}-{number:02d}-{chr(ord('a') + k)}" for k in range(len(group.clips))]
    rows: list[dict[str, object]] = []
    for k, (name, clip) in enumerate(zip(ids, group.clips, strict=True)):
        right = group.question.options.index(answer_value(group.question.topic, clip))
        rows.append(
            {
                "id": name,
                "video": f"clips/{name}.mp4",
                "question": group.question.stem,
                "candidates": list(group.question.candidates),
                "answer": group.question.candidates[right],
                "answer_letter": LETTERS[right],
                "pair": ids[k ^ 1] if group.paired else None,
                "family": family,
            }
        )
    return rows


def selected(
    families: tuple[str, ...] = FAMILIES, limit: int | None = None
) -> Iterator[tuple[str, int, Group]]:
    for family, number, group in all_groups():
        if family in families and (limit is None or number < limit):
            yield family, number, group


def build(out: Path, families: tuple[str, ...] = FAMILIES, limit: int | None = None) -> dict[str, int]:
    """Clips and one JSON-lines file a family into `out`; the number of documents by family."""
    (out / "clips").mkdir(parents=True, exist_ok=True)
    rows: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for family, number, group in selected(families, limit):
        made = documents(family, number, group)
        rows[family] += made
        for row, clip in zip(made, group.clips, strict=True):
            encode(render(clip), out / str(row["video"]))
    for family, lines in rows.items():
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        (out / f"{family}.jsonl").write_text(text, encoding="utf-8")
    return {family: len(lines) for family, lines in rows.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=SHIPPED)
    parser.add_argument("--family", choices=FAMILIES, action="append", help="only this family (repeatable)")
    parser.add_argument("--limit", type=int, help="only the first groups of each family")
    args = parser.parse_args()
    for family, count in build(args.out, tuple(args.family or FAMILIES), args.limit).items():
        print(f"{family:20}{count:5} documents")


if __name__ == "__main__":
    main()
