"""What is released: its size, and what is in it. `make wheel` runs it alone; that needs a package registry."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from scripts.wheel import LARGEST, ask_twine, build, problems


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return build(tmp_path_factory.mktemp("dist"))


def test_sdist_and_wheel_are_small_and_whole(built: tuple[Path, Path]) -> None:
    assert problems(*built) == []
    assert max(file.stat().st_size for file in built) < LARGEST
    assert "FAILED" not in ask_twine(built)


def test_what_is_missing_or_too_much_is_told(built: tuple[Path, Path], tmp_path: Path) -> None:
    source, wheel = built
    odd = tmp_path / wheel.name
    with zipfile.ZipFile(wheel) as read, zipfile.ZipFile(odd, "w") as written:
        for name in read.namelist():
            if not name.startswith("lmms_flow/claims/"):
                written.writestr(name, b"")
        written.writestr("tests/test_x.py", b"")
    assert problems(source, odd) == ["the wheel lacks lmms_flow/claims/", "the wheel has tests/test_x.py"]
