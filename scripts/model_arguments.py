"""Writes docs/model-args.md from the fields of ModelArguments and what is written beside them.

python -m scripts.model_arguments
"""

from __future__ import annotations

import inspect
import re
from dataclasses import fields
from pathlib import Path

from lmms_flow.runner.arguments import _CHOICES, ModelArguments

PAGE = Path(__file__).parents[1] / "docs" / "model-args.md"
HEAD = """\
# The arguments of `--model_args`

Written as `name=value,name=value`, for every model of this package, for `lmms-flow verify` and, as keywords, for
`lmms_flow.load`. A flow has no comma: rules are joined by `+`. A misspelt name or value ends the run in one line,
before weights are loaded. This page is made from the code by `python -m scripts.model_arguments`.

| argument | default | what it is |
|---|---|---|
"""


def page() -> str:
    """The page's text."""
    said = dict(re.findall(r"^    (\w+): .*?# (.*)$", inspect.getsource(ModelArguments), re.MULTILINE))
    rows = []
    for field in fields(ModelArguments):
        default = "" if field.default == "" else f"`{field.default}`"
        choices = _CHOICES.get(field.name)
        listed = f" ({', '.join(f'`{each}`' for each in choices)})" if choices else ""
        rows.append(
            f"| `{field.name}` | {default} | {said.get(field.name, '')}{listed} |".replace("|  |", "| |")
        )
    return HEAD + "\n".join(rows) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
