"""Every error message of the package, read out of the code that raises it."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lmms_flow import errors

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("lmms_flow", "model_wrappers", "tasks")
KINDS = {
    name: kind
    for name, kind in vars(errors).items()
    if inspect.isclass(kind) and issubclass(kind, errors.UserError) and kind is not errors.UserError
}


@dataclass(frozen=True, order=True)
class Message:
    """One message: its kind, its text with what is filled in as {words}, and the module that raises it."""

    kind: str
    text: str
    module: str


def messages() -> list[Message]:
    """Those whose text stands where they are made; what is handed on stands where it came from."""
    found: set[Message] = set()
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            module = str(path.relative_to(ROOT))
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if (
                    isinstance(node, ast.Call)
                    and isinstance(node.func, ast.Name)
                    and node.func.id in KINDS
                    and node.args
                ):
                    text = "".join(_parts(node.args[0]))
                    if any(character.isalpha() for character in _without_fields(text)):
                        found.add(Message(node.func.id, " ".join(text.split()), module))
    return sorted(found)


def page() -> str:
    """The page in Markdown: a section for each kind."""
    listed = messages()
    lines = [
        "# Error messages",
        "",
        f"The {len(listed)} messages whose text stands in the code, read from it when this site was built. In braces "
        "is what is filled in. Each is one line that says what is wrong and what to write instead. All are kinds of "
        "`lmms_flow.errors.UserError`. What other packages raise is handed on in one line of ours.",
        "",
    ]
    for name, kind in KINDS.items():
        of_kind = [message for message in listed if message.kind == name]
        if not of_kind:
            continue
        lines += [f"## {name}", "", str(kind.__doc__).strip().splitlines()[0].replace("<", "&lt;"), ""]
        for module in sorted({message.module for message in of_kind}):
            lines += [f"`{module}`", ""]
            lines += [f"- {_shown(message.text)}" for message in of_kind if message.module == module]
            lines.append("")
    return "\n".join(lines)


def _parts(node: ast.expr) -> Iterator[str]:
    """The text of an expression; what is computed stands in braces."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.JoinedStr):
        for part in node.values:
            yield from _parts(part)
    elif isinstance(node, ast.FormattedValue):
        yield f"{{{ast.unparse(node.value).replace('{', '(').replace('}', ')')}}}"
    elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        yield from _parts(node.left)
        yield from _parts(node.right)
    else:
        yield f"{{{ast.unparse(node).replace('{', '(').replace('}', ')')}}}"


def _without_fields(text: str) -> str:
    depth, kept = 0, []
    for character in text:
        depth += {"{": 1, "}": -1}.get(character, 0)
        if depth == 0:
            kept.append(character)
    return "".join(kept)


def _shown(text: str) -> str:
    """As code, in which nothing means anything to Markdown."""
    fence = "``" if "`" in text else "`"
    return f"{fence} {text} {fence}" if fence == "``" else f"`{text}`"
