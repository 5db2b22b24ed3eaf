"""The tool that seeds bugs: its seeds fit the sources, its mutants are Python, and a bug is told from none."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest
import yaml
from coverage import CoverageData

from scripts.mutate import __main__ as tool
from scripts.mutate.equivalent import LISTED
from scripts.mutate.operators import ROOT, Mutant, mutants
from scripts.mutate.reached import Reached
from scripts.mutate.semantic import semantic_mutants


def test_every_seed_fits_the_sources_of_today() -> None:
    seeded = list(semantic_mutants())
    assert len({mutant.id for mutant in seeded}) == len(seeded) >= 60
    for mutant in seeded:
        ast.parse(mutant.source)
        assert ast.dump(ast.parse(mutant.source)) != ast.dump(ast.parse((ROOT / mutant.file).read_text()))


def test_what_is_called_no_bug_stands_in_the_sources_of_today() -> None:
    for each in yaml.safe_load(LISTED.read_text()):
        lines = [line.strip() for line in (ROOT / each["file"]).read_text().splitlines()]
        assert each["line"] in lines, each
        assert each["reason"]
        assert each["what"]


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


def test_the_same_sample_is_drawn_again() -> None:
    assert len({mutant.id for mutant in tool.everything()}) > 5000
    assert [mutant.id for mutant in tool.drawn(5, 1)] == [mutant.id for mutant in tool.drawn(5, 1)]
    assert [mutant.id for mutant in tool.drawn(5, 1)] != [mutant.id for mutant in tool.drawn(5, 2)]


def test_the_tests_that_run_a_line_are_asked_the_narrowest_and_the_quickest_first(
    tmp_path: Path,
) -> None:
    names = [
        "tests/test_a.py::slow",
        "tests/test_a.py::quick",
        "tests/test_x.py::it",
        "tests/test_b.py::other",
    ]
    seconds = dict(zip(names, (50.0, 1.0, 2.0, 3.0), strict=True))
    (tmp_path / "seconds.json").write_text(json.dumps(seconds))
    data = CoverageData(str(tmp_path / "data"))
    for name, lines in zip([*names, ""], ([4, 5, 9], [5, 9], [5], [7], [1]), strict=True):
        data.set_context(f"{name}|run" if name else "")
        data.add_lines({str(ROOT / "lmms_flow/x.py"): lines})
    data.write()

    def asked(first: int, last: int) -> list[str]:
        return Reached(tmp_path).tests(Mutant("lmms_flow/x.py", range(first, last + 1), "", "", ""))

    assert asked(5, 5) == ["tests/test_x.py::it", "tests/test_a.py::quick", "tests/test_a.py::slow"]
    assert asked(9, 9) == ["tests/test_a.py::quick", "tests/test_a.py::slow"]
    assert asked(4, 4) == ["tests/test_a.py::slow"]
    assert asked(6, 7) == ["tests/test_b.py::other"]
    assert set(asked(1, 1)) == set(names), "a line that runs on import"
    few = Reached(tmp_path, most=10).tests(Mutant("lmms_flow/x.py", range(5, 6), "", "", ""))
    assert few == ["tests/test_x.py::it", "tests/test_a.py::quick"]


def test_of_the_process_that_decodes_those_are_asked_that_read_videos(tmp_path: Path) -> None:
    names = ["tests/test_video.py::a", "tests/test_videos.py::b", "tests/test_flow.py::c"]
    (tmp_path / "seconds.json").write_text(json.dumps(dict.fromkeys(names, 1.0)))
    data = CoverageData(str(tmp_path / "data"))
    data.add_lines({str(ROOT / "lmms_flow/inputs/timeline.py"): [1]})
    data.write()
    asked = Reached(tmp_path).tests(Mutant("lmms_flow/inputs/timeline.py", range(50, 51), "", "", ""))
    assert asked == names[:2]


@pytest.mark.parametrize(("source", "expected"), [("VALUE = 1\n", "survived"), ("VALUE = 2\n", "caught")])
def test_a_bug_is_told_from_none(source: str, expected: str, tmp_path: Path) -> None:
    (tmp_path / "flow_of_mine.py").write_text("VALUE = 1\n")
    (tmp_path / "test_it.py").write_text(
        "from flow_of_mine import VALUE\n\ndef test_it():\n    assert VALUE == 1\n"
    )
    (tmp_path / "pyproject.toml").write_text("[tool.pytest.ini_options]\n")
    bug = Mutant("flow_of_mine.py", range(1, 2), "a value", source, "VALUE = 1")
    line = tool.ask(bug, ["test_it.py::test_it"], tmp_path)
    assert (line["outcome"], line["by"]) == (expected, "test_it.py::test_it" if expected == "caught" else "")
    assert (tmp_path / "flow_of_mine.py").read_text() == "VALUE = 1\n"
    assert tmp_path != ROOT
