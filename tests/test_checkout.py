"""A checkout is whole: folders of another one are refused, and nothing else is."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import lmms_flow
import lmms_flow.model_wrappers
import lmms_flow.tasks

PACKAGE = Path(lmms_flow.__file__).parent
PARTS = {
    "model_wrappers": Path(lmms_flow.model_wrappers.__file__).parent,
    "tasks": Path(lmms_flow.tasks.__file__).parent,
}
LIGHT = shutil.ignore_patterns("assets", "model_wrappers", "tasks", "__pycache__")


def copied(root: Path, parts_in: str = "") -> Path:
    """A checkout under `root`: the package, and its two folders beside it (or inside it, as a wheel has them)."""
    shutil.copytree(PACKAGE, root / "lmms_flow", ignore=LIGHT)
    for name, folder in PARTS.items():
        shutil.copytree(folder, root / parts_in / name, ignore=shutil.ignore_patterns("__pycache__"))
    return root


def imported(root: Path, part: str, parts_of: Path | None) -> subprocess.CompletedProcess[str]:
    """Imports a part of the package in `root`; with `parts_of` its folders are found there."""
    lines = [
        f"import sys; sys.path.insert(0, {str(root)!r})",
        "sys.meta_path[:] = [finder for finder in sys.meta_path if 'editable' not in repr(finder)]",
        "import lmms_flow",
        f"lmms_flow.__path__.append({str(parts_of)!r})" if parts_of else "",
        f"import lmms_flow.{part}; print(lmms_flow.__file__, lmms_flow.{part}.__file__)",
    ]
    code = "\n".join(lines)
    return subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("part", PARTS)
def test_a_folder_of_another_checkout_is_refused_in_one_line(tmp_path: Path, part: str) -> None:
    one, other = copied(tmp_path / "one"), copied(tmp_path / "other")
    run = imported(one, part, parts_of=other)
    assert run.returncode == 1
    (line,) = run.stderr.splitlines()
    assert line.startswith(
        f"lmms_flow: lmms_flow is imported from {one}, but its {part} from {other}: two checkouts"
    )
    assert f"pip install -e {one}" in line


@pytest.mark.parametrize("part", PARTS)
def test_a_whole_checkout_is_imported(tmp_path: Path, part: str) -> None:
    root = copied(tmp_path / "checkout")
    run = imported(root, part, parts_of=root)
    assert run.stderr == ""
    assert run.stdout.split() == [str(root / "lmms_flow/__init__.py"), str(root / part / "__init__.py")]


@pytest.mark.parametrize("part", PARTS)
def test_a_link_to_a_checkout_is_the_checkout(tmp_path: Path, part: str) -> None:
    root = copied(tmp_path / "checkout")
    (tmp_path / "link").symlink_to(root, target_is_directory=True)
    for one, other in ((tmp_path / "link", root), (root, tmp_path / "link")):
        run = imported(one, part, parts_of=other)
        assert (run.returncode, run.stderr) == (0, "")


@pytest.mark.parametrize("part", PARTS)
def test_an_installed_wheel_is_imported(tmp_path: Path, part: str) -> None:
    root = copied(tmp_path / "site-packages", parts_in="lmms_flow")
    run = imported(root, part, parts_of=None)
    assert run.stderr == ""
    assert run.stdout.split()[1] == str(root / "lmms_flow" / part / "__init__.py")


@pytest.mark.parametrize("part", PARTS)
def test_a_folder_of_linked_files_is_the_checkout_that_they_are_of(tmp_path: Path, part: str) -> None:
    """As `pip install -e . --config-settings editable_mode=strict` lays them out."""
    root = copied(tmp_path / "checkout")
    linked = tmp_path / "build"
    for name, folder in {
        "lmms_flow": root / "lmms_flow",
        **{f"lmms_flow/{p}": root / p for p in PARTS},
    }.items():
        for file in folder.rglob("*.py"):
            link = linked / name / file.relative_to(folder)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(file)
    run = imported(linked, part, parts_of=None)
    assert (run.returncode, run.stderr) == (0, "")
