"""The house: no file imports itself through others, and no room imports one that stands on it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = {"lmms_flow": "lmms_flow", "model_wrappers": "lmms_flow.model_wrappers", "tasks": "lmms_flow.tasks"}
GROUND = {
    "checkout",
    "errors",
    "versions",
    "assets",
    "plots",
    "notebook",
    "terminal",
}  # import nothing of ours but one another
# What a room may import beside itself and the ground.
BELOW: dict[str, set[str]] = {
    "flow": set(),
    "engine": {"flow"},
    "inputs": {"flow"},
    "records": set(),
    "claims": {"flow"},
    "harness": {"flow", "inputs", "records", "claims"},
    "trace": {"flow", "engine"},
    "runner": {"flow", "engine", "inputs", "records", "harness", "trace"},
    "tasks": {"flow", "inputs", "records", "harness"},
    "model_wrappers": {"flow", "engine", "inputs", "records", "harness", "runner"},
    "report": {
        "flow",
        "inputs",
        "records",
        "trace",
        "show",
        "claims",
    },  # the page shows frames and draws flows
    "show": {"flow", "engine"},
    "testing": {"flow", "engine", "inputs", "harness", "runner"},
    "doctor": {"engine", "inputs", "harness", "runner", "tasks"},
}
TOP = {"__main__", "cli", "commands", "public", ""}  # join what they like


def modules() -> dict[str, Path]:
    """Every module of the package by its name."""
    found = {}
    for folder, package in FOLDERS.items():
        for path in (ROOT / folder).rglob("*.py"):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            found[".".join([package, *parts]).removesuffix(".__init__")] = path
    return found


MODULES = modules()


def imported(name: str, path: Path) -> Iterator[str]:
    """The modules of ours that a file imports, anywhere in it."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = (
                ".".join(package.split(".")[: len(package.split(".")) - node.level + 1]) if node.level else ""
            )
            base = ".".join(part for part in (above, node.module) if part)
            names = [f"{base}.{alias.name}" for alias in node.names]
        else:
            continue
        for each in names:
            while each and each not in MODULES:
                each = each.rpartition(".")[0]
            if each and each != name:
                yield each


IMPORTS = {name: sorted(set(imported(name, path))) for name, path in MODULES.items()}


def room(name: str) -> str:
    return [*name.split("."), ""][1]


def test_what_is_looked_at() -> None:
    assert len(MODULES) > 130
    assert sum(map(len, IMPORTS.values())) > 500
    assert "lmms_flow.flow.resolve" in IMPORTS["lmms_flow.flow.leaks"], "relative imports are read"
    assert "lmms_flow.harness.flow_task" in IMPORTS["lmms_flow.harness.arms"], "and those inside functions"


def test_every_room_has_its_place() -> None:
    assert {room(name) for name in MODULES} == BELOW.keys() | GROUND | TOP


@pytest.mark.parametrize("name", MODULES)
def test_imports_go_down(name: str) -> None:
    own = room(name)
    if own in TOP:
        return
    allowed = (set() if own in GROUND else BELOW[own]) | {own, ""} | GROUND
    above = [each for each in IMPORTS[name] if room(each) not in allowed]
    assert not above, f"{name} imports {above}"


@pytest.mark.smoke
def test_no_file_imports_itself_through_others() -> None:
    done: set[str] = set()

    def walk(name: str, way: tuple[str, ...]) -> None:
        assert name not in way, " -> ".join([*way[way.index(name) :], name])
        if name not in done:
            for each in IMPORTS[name]:
                walk(each, (*way, name))
            done.add(name)

    for name in MODULES:
        walk(name, ())
    assert done == MODULES.keys()


def test_no_test_leans_on_another() -> None:
    """What two test files share lies in tests/support, so that each runs alone and a test can be moved."""
    files = sorted((ROOT / "tests").rglob("*.py"))
    assert len(files) > 90
    # As text: some tests hand code to a process of its own.
    lean = re.compile(r"(?:from|import)\s+(?:tests)?(?:\.|\.?\s+import\s.*\b)test_\w+")
    assert lean.search("from tests.test_rooms import room"), "the pattern finds none"
    assert lean.search("from tests import support, test_rooms")
    leaning = {path.name: found[0] for path in files if (found := lean.search(path.read_text("utf-8")))}
    leaning.pop(Path(__file__).name)
    assert not leaning
    helpers = {path.name for path in (ROOT / "tests").glob("*.py") if not path.name.startswith("test_")}
    assert helpers == {"__init__.py", "conftest.py"}, "a helper's place is tests/support"


def test_every_public_name_of_flow_is_there() -> None:
    import lmms_flow.flow as flow

    assert set(flow._HOME) == set(flow.__all__)
    assert all(getattr(flow, name).__name__ for name in flow.__all__ if isinstance(getattr(flow, name), type))
    with pytest.raises(AttributeError, match="has no attribute 'Flou'"):
        flow.Flou  # noqa: B018
