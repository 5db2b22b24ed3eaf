"""Every error message of the package, read out of the code that raises it: a list, and a page of each."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from lmms_flow import errors

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("lmms_flow", "model_wrappers", "tasks")
KINDS = {
    name: kind
    for name, kind in vars(errors).items()
    if inspect.isclass(kind) and issubclass(kind, errors.UserError) and kind is not errors.UserError
}
# What happens where one is raised in a run of lmms-eval, beside the line on stderr.
FAILED = (
    "The sample is told and counted as failed, the others go on, and the run ends with status 1 unless "
    "`--allow-errors` is given."
)
AT_LOAD = "In a run it ends with status 1, before the first sample."
ENDS = {
    "FlowError": "In a command line it ends with status 2; in a run a sample that it concerns is told as failed.",
    "UnsupportedModelError": AT_LOAD,
    "CheckpointError": AT_LOAD,
    "ReportError": "The command ends with status 2.",
    "RecordError": "The run or the command ends; the file is left as it is.",
    "SampleError": FAILED,
    "SkippedSampleError": "The sample is told and left out, which is no failure.",
    "MissingVideoError": FAILED,
    "RunError": "The run ends with status 1; answers that were given before are kept in the records.",
}
# The page that explains what a file of this folder does.
PAGES = {
    "lmms_flow/flow": "language.md",
    "lmms_flow/engine": "engine.md",
    "lmms_flow/inputs": "videos.md",
    "lmms_flow/records": "records.md",
    "lmms_flow/runner": "model-args.md",
    "lmms_flow/trace": "maps.md",
    "lmms_flow/report": "report.md",
    "lmms_flow/claims": "claims.md",
    "lmms_flow/doctor": "doctor.md",
    "lmms_flow/testing": "adding-a-model.md",
    "lmms_flow/harness": "leaderboard.md",
    "model_wrappers": "families.md",
    "tasks": "benchmarks.md",
}


@dataclass(frozen=True, order=True)
class Message:
    """One message: its kind, its text with what is filled in as {words}, and the module that raises it.

    `place` is the function, `does` the first sentence of its docstring, `conditions` under what it is raised there.
    """

    kind: str
    text: str
    module: str
    place: str = field(default="", compare=False)
    does: str = field(default="", compare=False)
    conditions: tuple[str, ...] = field(default=(), compare=False)

    @property
    def slug(self) -> str:
        """Its first words, by which its page is found."""
        words = re.findall(r"[a-z0-9_]+", _without_fields(self.text).lower().replace("'", ""))
        return "-".join(words)[:70].strip("-")


def messages() -> list[Message]:
    """Those whose text stands where they are made; what is handed on stands where it came from."""
    found: dict[Message, Message] = {}
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            module = str(path.relative_to(ROOT))
            for message in _raised(ast.parse(path.read_text(encoding="utf-8")), module, (), ()):
                found.setdefault(message, message)
    return sorted(found)


def page() -> str:
    """The list in Markdown: a section for each kind, and a link to the page of each message."""
    files = _files()
    lines = [
        "# Error messages",
        "",
        f"The {len(files)} messages whose text stands in the code, read from it when this site was built, with a page "
        "of each. In braces is what is filled in. Each is one line that says what is wrong and what to write instead. "
        "All are kinds of `lmms_flow.errors.UserError`. What other packages raise is handed on in one line of ours.",
        "",
    ]
    for name, kind in KINDS.items():
        of_kind = [message for message in files if message.kind == name]
        if not of_kind:
            continue
        lines += [f"## {name}", "", _meaning(kind), "", ENDS[name], ""]
        for module in sorted({message.module for message in of_kind}):
            lines += [f"`{module}`", ""]
            lines += [f"- [{_code(m.text)}](errors/{files[m]})" for m in of_kind if m.module == module]
            lines.append("")
    return "\n".join(lines)


def single_pages() -> dict[str, str]:
    """The page of each message in Markdown, by the name of its file in `errors/`."""
    files = _files()
    return {name: _page_of(message, files) for message, name in files.items()}


def _page_of(message: Message, files: dict[Message, str]) -> str:
    others = [each for each in files if each != message and _source(each) == _source(message)]
    lines = [
        f"# {_code(message.text)}",
        "",
        f"A [`{message.kind}`](../errors.md#{message.kind.lower()}): {_meaning(KINDS[message.kind])}",
        "",
        ENDS[message.kind],
        "",
        "## When",
        "",
        f"`{message.place}` of `{message.module}` raises it"
        + (", where all of this holds:" if message.conditions else "."),
        "",
        *(f"- {condition}" for condition in message.conditions),
        "",
    ]
    if message.does:
        lines += [f"What that is for: {message.does}", ""]
    explained = _explained(message.module)
    if explained:
        lines += [f"What is meant by its words: [{explained}](../{explained}).", ""]
    if others:
        lines += ["## Said in the same place", ""]
        lines += [f"- [{_code(each.text)}]({files[each]})" for each in others]
        lines.append("")
    return "\n".join(lines)


def _files() -> dict[Message, str]:
    """Each message's file; two that begin with the same words are numbered."""
    named: dict[str, int] = {}
    files = {}
    for message in messages():
        slug = message.slug
        named[slug] = named.get(slug, 0) + 1
        files[message] = f"{slug}.md" if named[slug] == 1 else f"{slug}-{named[slug]}.md"
    return files


def _raised(
    node: ast.AST, module: str, scopes: tuple[ast.AST, ...], conditions: tuple[str, ...]
) -> Iterator[Message]:
    """The messages that are made in `node`; `scopes` are the definitions around it, `conditions` what holds there."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in KINDS and node.args:
        text = " ".join("".join(_parts(node.args[0])).split())
        if any(character.isalpha() for character in _without_fields(text)):
            place = ".".join(getattr(scope, "name", "") for scope in scopes) or "the module"
            yield Message(node.func.id, text, module, place, _does(scopes), conditions)
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        scopes, conditions = (*scopes, node), ()
    if isinstance(node, ast.If):
        yield from _raised(node.test, module, scopes, conditions)
        for part in node.body:
            yield from _raised(part, module, scopes, (*conditions, _code(ast.unparse(node.test))))
        for part in node.orelse:
            yield from _raised(part, module, scopes, (*conditions, f"not {_code(ast.unparse(node.test))}"))
        return
    if isinstance(node, ast.ExceptHandler) and node.type is not None:
        conditions = (*conditions, f"{_code(ast.unparse(node.type))} came up")
    for child in ast.iter_child_nodes(node):
        yield from _raised(child, module, scopes, conditions)


def _does(scopes: tuple[ast.AST, ...]) -> str:
    """The first paragraph of the innermost docstring."""
    for scope in reversed(scopes):
        if isinstance(scope, ast.FunctionDef | ast.ClassDef) and (prose := ast.get_docstring(scope)):
            return " ".join(prose.split("\n\n")[0].split()).replace("<", "&lt;")
    return ""


def _source(message: Message) -> tuple[str, str]:
    return message.module, message.place


def _explained(module: str) -> str | None:
    return next((page for folder, page in PAGES.items() if module.startswith(folder + "/")), None)


def _meaning(kind: type) -> str:
    return str(kind.__doc__).strip().splitlines()[0].replace("<", "&lt;")


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


def _code(text: str) -> str:
    """As code, in which nothing means anything to Markdown."""
    return f"`` {text} ``" if "`" in text else f"`{text}`"
