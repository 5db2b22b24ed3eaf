"""Tables that scripts write into docs/videos.md, each between two marks."""

from __future__ import annotations

from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs" / "videos.md"
END = "<!-- until here -->"


def begin(script: str) -> str:
    return f"<!-- made by {script} -->"


def put(text: str, script: str) -> None:
    """In the place of what the script wrote before."""
    head, mark, rest = DOCS.read_text(encoding="utf-8").partition(begin(script))
    if not mark:
        raise SystemExit(f"{DOCS} has no place for it: write {begin(script)} and {END}")
    DOCS.write_text(f"{head}{mark}\n\n{text}\n\n{END}{rest.partition(END)[2]}", encoding="utf-8")


def written(script: str) -> str:
    """What the script wrote."""
    return DOCS.read_text(encoding="utf-8").partition(begin(script))[2].partition(END)[0].strip()
