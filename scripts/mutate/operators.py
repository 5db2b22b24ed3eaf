"""Small bugs made by rule: one change of one expression of a source file."""

from __future__ import annotations

import ast
import copy
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Mutant:
    """One bug: the file, the lines that it changes, what is changed in them, and the whole changed source."""

    file: str
    lines: range
    what: str
    source: str
    text: str  # of the first of these lines, as it was
    at: int = 0  # where in this text the changed expression begins
    nth: int = 0  # of those of the file of which all this is the same
    is_by_hand: bool = False

    @property
    def id(self) -> str:
        """The same as long as its line is."""
        return sha256("\0".join(map(str, (*self.key, self.nth))).encode()).hexdigest()[:12]

    @property
    def key(self) -> tuple[str, str, int, str]:
        """By which it is found again when other lines of its file have changed."""
        return self.file, self.text, self.at, self.what


COMPARED: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is,
}  # fmt: skip
COMPUTED: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.FloorDiv, ast.FloorDiv: ast.Mult, ast.Div: ast.Mult,
    ast.Mod: ast.Mult, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.LShift: ast.RShift, ast.RShift: ast.LShift,
}  # fmt: skip
CALLED = {
    "min": "max",
    "max": "min",
    "any": "all",
    "all": "any",
    "sorted": "list",
    "ceil": "floor",
    "floor": "ceil",
}


def mutants(file: Path, root: Path) -> Iterator[Mutant]:
    """All of a file."""
    source = file.read_text(encoding="utf-8")
    lines = [line.encode() for line in source.splitlines(keepends=True)]
    seen: Counter[tuple[str, str, int, str]] = Counter()
    for node in _code(ast.parse(source)):
        for changed in _changes(node):
            start = sum(map(len, lines[: node.lineno - 1])) + node.col_offset
            stop = sum(map(len, lines[: (node.end_lineno or 0) - 1])) + (node.end_col_offset or 0)
            data = source.encode()
            before, after = data[start:stop].decode(), f"({ast.unparse(ast.fix_missing_locations(changed))})"
            made = (data[:start] + after.encode() + data[stop:]).decode()
            what = f"{' '.join(before.split())[:60]} -> {' '.join(after[1:-1].split())[:60]}"
            changes = range(node.lineno, (node.end_lineno or node.lineno) + 1)
            whole = source.splitlines()[node.lineno - 1]
            text, indent = whole.strip(), len(whole) - len(whole.lstrip())
            found = Mutant(str(file.relative_to(root)), changes, what, made, text, node.col_offset - indent)
            yield replace(found, nth=seen[found.key])
            seen[found.key] += 1


def _code(tree: ast.AST) -> Iterator[ast.expr]:
    """The expressions that are computed with: no annotation, no docstring, no text of an error."""
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, ast.Raise | ast.Assert | ast.JoinedStr | ast.Import | ast.ImportFrom):
            continue
        if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            continue
        if isinstance(child, ast.AnnAssign):
            if child.value is not None:
                yield from _within(child.value)
            continue
        if isinstance(child, ast.FunctionDef) and child.name in (
            "__repr__",
            "_repr_html_",
            "plot",
            "__str__",
        ):
            continue
        if isinstance(child, ast.arg):
            continue
        if isinstance(child, ast.FunctionDef):
            for part in (*child.args.defaults, *filter(None, child.args.kw_defaults)):
                yield from _within(part)
            for statement in child.body:
                yield from _within(statement)
            continue
        yield from _within(child)


def _within(node: ast.AST) -> Iterator[ast.expr]:
    if isinstance(node, ast.expr):
        yield node
    yield from _code_of(node)


def _code_of(node: ast.AST) -> Iterator[ast.expr]:
    if isinstance(node, ast.Raise | ast.Assert | ast.JoinedStr):
        return
    yield from _code(node)


def _changes(node: ast.expr) -> Iterator[ast.expr]:
    new = copy.deepcopy(node)
    if isinstance(node, ast.Compare) and len(node.ops) == 1:
        assert isinstance(new, ast.Compare)
        new.ops = [COMPARED[type(node.ops[0])]()]
        yield new
    elif isinstance(node, ast.BinOp) and type(node.op) in COMPUTED and not _is_text(node):
        assert isinstance(new, ast.BinOp)
        new.op = COMPUTED[type(node.op)]()
        yield new
    elif isinstance(node, ast.BoolOp):
        assert isinstance(new, ast.BoolOp)
        new.op = ast.Or() if isinstance(node.op, ast.And) else ast.And()
        yield new
        for place in range(len(node.values)):
            left = node.values[:place] + node.values[place + 1 :]
            yield left[0] if len(left) == 1 else ast.BoolOp(node.op, left)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield node.operand
    elif isinstance(node, ast.Constant) and type(node.value) is int:
        yield ast.Constant(node.value + 1)
    elif isinstance(node, ast.Constant) and type(node.value) is bool:
        yield ast.Constant(not node.value)
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in CALLED:
        assert isinstance(new, ast.Call)
        new.func = ast.Name(CALLED[node.func.id])
        new.keywords = [each for each in new.keywords if node.func.id != "sorted" or each.arg is None]
        yield new
    elif isinstance(node, ast.IfExp):
        yield node.body
        yield node.orelse


def _is_text(node: ast.BinOp) -> bool:
    """Whether texts are joined: a change of that is no bug but a crash."""
    return any(isinstance(each, ast.JoinedStr | ast.Constant) and isinstance(getattr(each, "value", ""), str)
               for each in (node.left, node.right))  # fmt: skip
