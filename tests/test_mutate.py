"""The tool that seeds bugs: its seeds fit the sources, its mutants are Python, and a bug is told from none."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from scripts.mutate import __main__ as tool
from scripts.mutate.operators import Mutant, mutants
from scripts.mutate.semantic import semantic_mutants
from scripts.mutate.suites import ROOT, suite_of


def test_every_seed_fits_the_sources_of_today() -> None:
    seeded = list(semantic_mutants())
    assert len({mutant.id for mutant in seeded}) == len(seeded) >= 60
    for mutant in seeded:
        ast.parse(mutant.source)
        assert suite_of(mutant.file), mutant.file


def test_mutants_by_rule_change_one_expression_and_no_message(tmp_path: Path) -> None:
    file = tmp_path / "x.py"
    file.write_text(
        'def f(a: int = 1) -> int:\n    """Doc 7."""\n    if a < 2 and not a:\n'
        '        raise ValueError(f"no {a + 3}")\n'
        "    return min(a, 5) + 1\n"
    )
    found = [mutant.what for mutant in mutants(file, tmp_path)]
    assert "a < 2 -> a <= 2" in found
    assert "not a -> a" in found
    assert "min(a, 5) -> max(a, 5)" in found
    assert "min(a, 5) + 1 -> min(a, 5) - 1" in found
    assert "1 -> 2" in found
    assert not any("a + 3" in what or "7" in what for what in found)
    assert sorted(found) != sorted(set(found)), "the two ones are two mutants"


@pytest.mark.host
def test_every_file_is_asked_about(tmp_path: Path) -> None:
    everything = tool.drawn(10**6, 0)
    assert len({mutant.id for mutant in everything}) > 5000
    for name in {mutant.file for mutant in everything}:
        assert suite_of(name), name
    assert [mutant.id for mutant in tool.drawn(5, 1)] == [mutant.id for mutant in tool.drawn(5, 1)]


@pytest.mark.parametrize(("source", "expected"), [("VALUE = 1\n", "survived"), ("VALUE = 2\n", "caught")])
def test_a_bug_is_told_from_none(
    source: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "flow_of_mine.py").write_text("VALUE = 1\n")
    (tmp_path / "test_it.py").write_text(
        "from flow_of_mine import VALUE\n\ndef test_it():\n    assert VALUE == 1\n"
    )
    (tmp_path / "pyproject.toml").write_text("[tool.pytest.ini_options]\n")
    monkeypatch.setattr(tool, "suite_of", lambda file: [str(tmp_path / "test_it.py")])
    line = tool.ask(Mutant("flow_of_mine.py", 1, "a value", source), tmp_path)
    assert (line["outcome"], line["by"]) == (expected, "test_it.py::test_it" if expected == "caught" else "")
    assert (tmp_path / "flow_of_mine.py").read_text() == "VALUE = 1\n"
    assert tmp_path != ROOT
