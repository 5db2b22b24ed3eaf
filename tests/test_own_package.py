"""The package of docs/adding-a-model.md, written from the page and installed into an environment of its own."""

from __future__ import annotations

import re
import site
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from lmms_flow.records.journal import read_journal
from tests.support.native import write
from tests.support.native_families import NATIVE

pytestmark = pytest.mark.host

PAGE = Path(__file__).parents[1] / "docs" / "adding-a-model.md"
MODEL = "video_llava_flow"


def files() -> dict[str, str]:
    """The page's files: blocks whose first line is a comment with a path."""
    section = PAGE.read_text().partition("## A package of your own")[2].partition("\n## ")[0]
    blocks = re.findall(r"```(?:toml|python)\n# (\S+)\n(.*?)```", section, re.DOTALL)
    return dict(blocks)


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the page's package, and with what is installed here; nothing is downloaded."""
    folder = tmp_path_factory.mktemp("own")
    source, environment = folder / "source", folder / "environment"
    for name, text in files().items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text(text)
    (source / "my_models" / "__init__.py").touch()
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True)
    (packages,) = environment.glob("lib/python*/site-packages")
    here = [path for path in site.getsitepackages() if Path(path).is_dir()]
    (packages / "here.pth").write_text("".join(f"import site; site.addsitedir({path!r})\n" for path in here))
    interpreter = environment / "bin" / "python"
    run = [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--offline", "--no-deps"]
    run += ["--no-build-isolation", "--python", str(interpreter), str(source)]
    done = subprocess.run(run, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return interpreter


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(NATIVE["video_llava"], tmp_path_factory.mktemp("model") / "video_llava", layers=3)


def lines(python: Path, program: str, args: Sequence[str], cwd: Path) -> list[str]:
    """What a command prints; it must succeed."""
    module = {"lmms-eval": "lmms_eval.cli.dispatch", "lmms-flow": "lmms_flow.cli"}[program]
    code = f"import sys; from {module} import main; sys.argv[0] = {program!r}; sys.exit(main())"
    done = subprocess.run(
        [str(python), "-c", code, *args], capture_output=True, text=True, cwd=cwd, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout.splitlines()


def test_it_is_short() -> None:
    written = [line for text in files().values() for line in text.splitlines() if line.strip()]
    assert len(files()) == 3
    assert len(written) < 40


def test_it_is_listed(python: Path, tmp_path: Path) -> None:
    assert any(line.split()[:1] == [MODEL] for line in lines(python, "lmms-eval", ["models"], tmp_path))


def test_it_conforms(python: Path, checkpoint: Path, tmp_path: Path) -> None:
    printed = lines(
        python,
        "lmms-flow",
        ["verify", "--model", MODEL, "--model_args", f"pretrained={checkpoint}"],
        tmp_path,
    )
    assert any("frames are where their pixels go" in line and "yes" in line for line in printed)


def test_it_runs_flowbench_and_a_map(python: Path, checkpoint: Path, tmp_path: Path) -> None:
    run = ["eval", "--model", MODEL, "--model_args", f"pretrained={checkpoint},records={tmp_path}/records"]
    run += ["--tasks", "flowbench_moving_direction,flowbench_flow_map_moving_direction", "--limit", "1"]
    lines(python, "lmms-flow", run, tmp_path)
    records = read_journal(tmp_path / "records")
    assert [record.status for record in records] == ["ok", "ok"]
    assert [bool(record.arrays) for record in sorted(records, key=lambda one: one.trace)] == [False, True]
