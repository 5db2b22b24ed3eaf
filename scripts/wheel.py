"""What is released, tried as a stranger gets it: python -m scripts.wheel  (with --run: in an environment of its own).

Builds the sdist and the wheel, checks their size and what is in them, and asks twine. With `--run` the wheel alone,
with the locked versions of what it needs, is installed into an empty environment elsewhere (6.6 GB, removed again);
there it scores the bundled model on the bundled benchmark and makes a map.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LARGEST = 15_000_000  # bytes
WITHIN = (  # the wheel: what runs without anything beside it, and what says what the assets are
    "lmms_flow/assets/flow-tiny/model.safetensors",
    "lmms_flow/assets/flow-tiny/README.md",
    "lmms_flow/assets/flowbench/README.md",
    "lmms_flow/py.typed",
    "lmms_flow/tasks/tvbench/",
    "lmms_flow/model_wrappers/llava_vid.py",
    "lmms_flow/report/page/templates/",
    "lmms_flow/claims/",
)
WITHIN_SOURCE = (
    "CITATION.cff",
    "CHANGELOG.md",
    "LICENSE",
    "docs/language.md",
    "tests/test_flow.py",
    "setup.cfg",
)
OUTSIDE = ("__pycache__", ".pyc", "/.venv/", "/out/", "tests/support/__pycache__")
RUNS = (
    ("flowbench_moving_direction", "--limit", "4"),
    ("flowbench_flow_effective_moving_direction", "--limit", "4"),
    ("flowbench_flow_map_moving_direction", "--limit", "1"),
)


def uv(*arguments: str, **environment: str) -> None:
    program = shutil.which("uv", path=os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"])))
    if program is None:
        raise SystemExit("uv is not installed: pip install uv")
    subprocess.run([program, *arguments], check=True, cwd=ROOT, env=os.environ | environment)


def build(folder: Path) -> tuple[Path, Path]:
    """The sdist, and the wheel that is built of it."""
    uv("build", "--quiet", "--no-build-isolation", "--python", sys.executable, "--out-dir", str(folder))
    (source,), (wheel,) = folder.glob("*.tar.gz"), folder.glob("*.whl")
    return source, wheel


def problems(source: Path, wheel: Path) -> list[str]:
    """What is wrong with the two files; empty if nothing is."""
    found = [
        f"{file.name} has {file.stat().st_size:,} bytes"
        for file in (source, wheel)
        if file.stat().st_size > LARGEST
    ]
    with zipfile.ZipFile(wheel) as opened:
        in_wheel = opened.namelist()
    with tarfile.open(source) as opened_source:
        in_source = [name.partition("/")[2] for name in opened_source.getnames()]
    found += [
        f"the wheel lacks {name}" for name in WITHIN if not any(each.startswith(name) for each in in_wheel)
    ]
    found += [f"the sdist lacks {name}" for name in WITHIN_SOURCE if name not in in_source]
    found += [
        f"{name} is no part of a release"
        for name in (*in_wheel, *in_source)
        if any(o in f"/{name}" for o in OUTSIDE)
    ]
    found += [
        f"the wheel has {name}" for name in in_wheel if name.startswith(("tests/", "scripts/", "benchmarks/"))
    ]
    return found


def ask_twine(files: Sequence[Path]) -> str:
    """What twine says of their metadata; "" where it is not installed."""
    if find_spec("twine") is None:
        return ""
    done = subprocess.run(
        [sys.executable, "-m", "twine", "check", "--strict", *map(str, files)], capture_output=True, text=True
    )
    return done.stdout.strip() or done.stderr.strip()


def run_alone(wheel: Path, folder: Path) -> None:
    """Installs the wheel into an environment of its own and runs it from a folder without sources.

    Raises where anything fails.
    """
    venv, work = folder / "venv", folder / "work"
    work.mkdir()
    uv("venv", "--quiet", "--python", sys.executable, str(venv))
    uv("pip", "install", "--quiet", "--constraints", "requirements.lock", str(wheel), VIRTUAL_ENV=str(venv))
    program = venv / "bin" / "lmms-flow"
    env = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    env |= {
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "CUDA_VISIBLE_DEVICES": "",
    }
    for task, *more in RUNS:
        out = ["--log_samples", "--output_path", "out", "--verbosity", "WARNING"]
        model = ["--model", "llava_vid_flow", "--model_args", "pretrained=flow-tiny"]
        subprocess.run([program, "eval", *model, "--tasks", task, *more, *out], check=True, cwd=work, env=env)
    subprocess.run([program, "compare", "out"], check=True, cwd=work, env=env)
    subprocess.run([program, "report", "out", "--output", "report.html"], check=True, cwd=work, env=env)
    where = [str(venv / "bin/python"), "-c", "import lmms_flow; print(lmms_flow.__file__)"]
    told = subprocess.run(where, check=True, cwd=work, env=env, capture_output=True, text=True).stdout
    if not told.startswith(str(venv)):
        raise SystemExit(f"what ran is not the wheel: {told}")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m scripts.wheel", description=__doc__.splitlines()[0])
    parser.add_argument("--run", action="store_true", help="also in an environment of its own")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        source, wheel = build(folder)
        for file in (source, wheel):
            print(f"{file.name}: {file.stat().st_size / 1e6:.1f} MB")
        wrong = problems(source, wheel)
        said = ask_twine((source, wheel))
        print(said or "twine is not installed: pip install twine, then this asks it too")
        print("\n".join(wrong) or "everything is in them that should be, and nothing else")
        if args.run and not wrong:
            run_alone(wheel, folder)
            print("the wheel alone scores flowbench and makes a map")
    return int(bool(wrong) or "FAILED" in said)


if __name__ == "__main__":
    sys.exit(main())
