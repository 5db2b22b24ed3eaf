"""What setup.cfg promises: it declares what is imported, and the lock is within it."""

from __future__ import annotations

import ast
import re
import sys
from importlib.metadata import packages_distributions, requires
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

import lmms_flow
from scripts import recipe
from scripts.versions import BREAKS, LOCK, PYTHONS, ROOT, Declared, declared, differences, pinned

OPTIONAL = {
    "peft": "lmms-eval requires it",
    "sentencepiece": "lmms-eval requires it",
    "torchcodec": "a third video reader, for those who have installed it",
    "triton": "comes with torch where there is a GPU",
    "mkdocs": "builds the site of the docs, where it is installed",
}
OWN = {"lmms_flow", "scripts", "tests", "benchmarks", "model_wrappers", "tasks"}


def imported(*folders: str) -> dict[str, str]:
    """The distributions whose modules are imported in these folders, with one file that does."""
    distributions = packages_distributions()
    found: dict[str, str] = {}
    for file in (file for folder in folders for file in sorted((ROOT / folder).rglob("*.py"))):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module or ""]
            for top in {name.partition(".")[0] for name in names} - set(sys.stdlib_module_names) - OWN:
                owners = distributions.get(top, [top])
                found.setdefault(canonicalize_name(owners[0]), f"{file.relative_to(ROOT)} imports {top}")
    return found


def test_what_the_package_imports_is_declared() -> None:
    names = {each.name for each in declared()}
    uses = imported("lmms_flow", "model_wrappers", "tasks")
    assert "torch" in uses
    assert {name: why for name, why in uses.items() if name not in names | OPTIONAL.keys()} == {}


def test_what_is_declared_is_imported_or_its_line_says_why() -> None:
    uses = imported("lmms_flow", "model_wrappers", "tasks")
    assert [str(each.requirement) for each in declared() if each.name not in uses and not each.reason] == []


def test_what_the_tests_import_is_declared_or_comes_with_what_is() -> None:
    names = {each.name for each in declared()} | {
        each.name for each in declared("options.extras_require", "test")
    }
    for host in ("lmms-eval", "transformers"):
        names |= {canonicalize_name(Requirement(line).name) for line in requires(host) or ()}
    uses = imported("tests", "scripts", "benchmarks")
    assert "pytest" in uses
    assert {name: why for name, why in uses.items() if name not in names | OPTIONAL.keys()} == {}


@pytest.mark.parametrize("each", declared(), ids=lambda each: each.name)
def test_the_lock_is_within_what_is_promised(each: Declared) -> None:
    versions = pinned(LOCK.read_text(encoding="utf-8"))[each.name]
    assert versions
    assert all(each.requirement.specifier.contains(version) for version in versions)


@pytest.mark.parametrize(
    "each",
    [each for each in declared() if "<" in str(each.requirement.specifier)],
    ids=lambda each: each.name,
)
def test_each_cap_has_its_reason(each: Declared) -> None:
    assert each.reason.startswith((BREAKS, "untried"))


def test_every_range_names_a_lowest_version() -> None:
    assert len(declared()) > 10
    for each in declared():
        assert re.fullmatch(r"[\w.-]+==[\w.]+(; .+)?", each.lowest())


def test_the_newest_tier_lifts_untried_caps_alone() -> None:
    torch = Declared(Requirement("torch>=2.9,<2.16"), "untried beyond")
    filelock = Declared(Requirement("filelock<4.3"), "breaks: a module is gone")
    assert torch.without_untried_cap() == "torch>=2.9"
    assert filelock.without_untried_cap() == "filelock<4.3"
    marked = Declared(Requirement('decord>=0.6; sys_platform == "linux"'), "")
    assert marked.without_untried_cap() == 'decord>=0.6; sys_platform == "linux"'


def test_differences_are_those_that_the_lock_has_not() -> None:
    locked = pinned(LOCK.read_text(encoding="utf-8"))
    same = {name: min(versions) for name, versions in locked.items()}
    assert differences(same) == {}
    assert differences(same | {"torch": "99.0"}) == {"torch": (" or ".join(sorted(locked["torch"])), "99.0")}


def test_the_lock_is_made_by_the_committed_command_with_hashes() -> None:
    text = LOCK.read_text(encoding="utf-8")
    assert text.splitlines()[1] == "#    make lock"
    entries = re.findall(r"^[\w.-]+==.*(?:\n    --hash=.*)*", text, re.MULTILINE)
    assert len(entries) > 100
    assert [entry for entry in entries if "--hash=sha256:" not in entry] == []


def test_versions_of_python_are_those_of_the_table() -> None:
    setup = (ROOT / "setup.cfg").read_text(encoding="utf-8")
    page = (ROOT / "docs" / "versions.md").read_text(encoding="utf-8")
    claimed = re.findall(r"Python :: (3\.\d+)", setup)
    assert claimed
    for version in claimed:
        assert re.search(rf"^\| Python {re.escape(version)} \|.* passed", page, re.MULTILINE), version
    lowest = re.search(r"python_requires = (\S+)", setup)
    assert lowest is not None
    assert SpecifierSet(lowest[1]).contains(PYTHONS[0])
    assert Path(ROOT / ".github/workflows/tests.yml").read_text().count(f'"{PYTHONS[-1]}"')


def test_the_table_of_versions_is_of_this_lock_and_these_bounds() -> None:
    page = (ROOT / "docs" / "versions.md").read_text(encoding="utf-8")
    locked = pinned(LOCK.read_text(encoding="utf-8"))
    assert len(declared()) > 10
    for each in declared():
        row = re.search(rf"^\| {re.escape(each.name)} \| (\S+) \| ([^|]+) \|", page, re.MULTILINE)
        assert row is not None, each.name
        assert f"=={row[1]}" in each.lowest()
        assert set(row[2].split(" or ")) == locked[each.name]


def test_the_conda_recipe_is_the_one_of_setup_cfg() -> None:
    assert recipe.FILE.read_text(encoding="utf-8") == recipe.text(), "python -m scripts.recipe"
    runs = recipe.recipe()["requirements"]["run"]
    assert len(runs) == len(declared()) - len(recipe.LEFT_OUT) + 1
    assert "pytorch <2.16,>=2.9" in runs


def test_the_version_stands_in_one_place() -> None:
    version = recipe.recipe()["context"]["version"]
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))["version"] == version
    assert lmms_flow.__version__ == version
