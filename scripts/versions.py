"""Which versions of our dependencies are promised, and trying them: the lock, the oldest and the newest.

python -m scripts.versions lock                   resolve setup.cfg anew into requirements.lock
python -m scripts.versions platforms              does setup.cfg resolve on other platforms and Pythons?
python -m scripts.versions oldest | newest        an environment of its own, the quick tests, one run through lmms-eval
python -m scripts.versions newest --short         the same without the whole suite; says in one line what came out
"""

from __future__ import annotations

import argparse
import configparser
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "requirements.lock"
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
PLATFORMS = (
    "x86_64-unknown-linux-gnu",
    "aarch64-unknown-linux-gnu",
    "aarch64-apple-darwin",
    "x86_64-pc-windows-msvc",
)
BREAKS = "breaks:"  # how a comment begins whose cap stays when the newest releases are tried
UPPER = ("<", "<=")
SHORT = ("tests/test_engine.py", "-k", "self_check or proof")  # every family's decoder is shown to take a cut
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}


@dataclass(frozen=True)
class Declared:
    """One line of setup.cfg's install_requires."""

    requirement: Requirement
    reason: str  # the comment on its line

    @property
    def name(self) -> str:
        return canonicalize_name(self.requirement.name)

    def lowest(self) -> str:
        """The requirement pinned to the lower end of its range, as `oldest` tries it."""
        low = next(s.version for s in self.requirement.specifier if s.operator in (">=", "=="))
        return self._with(f"=={low}")

    def without_untried_cap(self) -> str:
        """The requirement as `newest` tries it: a cap stays only where what lies beyond is known to break."""
        if self.reason.startswith(BREAKS):
            return str(self.requirement)
        return self._with(",".join(str(s) for s in self.requirement.specifier if s.operator not in UPPER))

    def _with(self, specifier: str) -> str:
        marker = f"; {self.requirement.marker}" if self.requirement.marker else ""
        return f"{self.requirement.name}{specifier}{marker}"


def declared(section: str = "options", option: str = "install_requires") -> list[Declared]:
    """What setup.cfg declares, with the reason behind each."""
    parser = configparser.ConfigParser(comment_prefixes=("#",))
    parser.read(ROOT / "setup.cfg")
    found = []
    for line in parser[section][option].strip().splitlines():
        text, _, reason = line.partition("  #")
        found.append(Declared(Requirement(text.strip()), reason.strip()))
    return found


def pinned(text: str) -> dict[str, set[str]]:
    """Versions by package in a lock, or in `uv pip freeze`; a universal lock may have several of one package."""
    found: dict[str, set[str]] = {}
    for name, version in re.findall(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)", text, re.MULTILINE):
        found.setdefault(canonicalize_name(name), set()).add(version)
    return found


def uv(*args: str, capture: bool = False, check: bool = True) -> subprocess.CompletedProcess[str]:
    """uv of the running environment, with its output let through unless `capture`."""
    command = [sys.executable, "-m", "uv", *args]
    return subprocess.run(command, cwd=ROOT, text=True, capture_output=capture, check=check)


def lock() -> int:
    """Resolves for every Python and platform at once."""
    uv(
        *(
            "pip",
            "compile",
            "--quiet",
            "--upgrade",
            "--universal",
            "--generate-hashes",
            "--prerelease",
            "disallow",
        ),
        *(
            "--python-version",
            PYTHONS[0],
            "--extra",
            "test",
            "--extra",
            "docs",
            "--custom-compile-command",
            "make lock",
        ),
        *("setup.cfg", "--output-file", LOCK.name),
    )
    return 0


def platforms() -> int:
    """Prints whether setup.cfg resolves for each platform and Python, and its lower ends together; status 1 if not."""
    table = Table("platform", *PYTHONS, title="setup.cfg resolves")
    failures = []
    for platform in PLATFORMS:
        cells = []
        for python in PYTHONS:
            done = uv(
                *("pip", "compile", "--quiet", "setup.cfg", "--output-file", os.devnull),
                *("--python-platform", platform, "--python-version", python),
                capture=True,
                check=False,
            )
            cells.append("yes" if done.returncode == 0 else "NO")
            if done.returncode:
                failures.append(f"{platform}, Python {python}:\n{done.stderr.strip()}")
        table.add_row(platform, *cells)
    Console().print(table)
    for failure in failures:
        print(failure, file=sys.stderr)
    print(f"the lower ends of all ranges resolve together, to {len(resolve('oldest'))} packages")
    return bool(failures)


def resolve(tier: str) -> dict[str, str]:
    """What a tier would install on this machine, by name: the oldest or the newest releases."""
    with tempfile.NamedTemporaryFile("w", suffix=".in") as wanted:
        for each in declared():
            wanted.write(f"{each.lowest() if tier == 'oldest' else each.without_untried_cap()}\n")
        wanted.flush()
        done = uv(
            *("pip", "compile", "--quiet", "--no-header", "--no-annotate", "--prerelease", "disallow"),
            *("--python-version", f"{sys.version_info.major}.{sys.version_info.minor}", wanted.name),
            capture=True,
            check=False,
        )
    if done.returncode:
        raise SystemExit(f"the {tier} releases do not resolve together:\n{done.stderr.strip()}")
    return {name: versions.pop() for name, versions in pinned(done.stdout).items()}


def differences(versions: dict[str, str]) -> dict[str, tuple[str, str]]:
    """Packages whose version is none of the lock's: (locked, this one)."""
    locked = pinned(LOCK.read_text(encoding="utf-8"))
    return {
        name: (" or ".join(sorted(locked.get(name, {"none"}))), version)
        for name, version in sorted(versions.items())
        if version not in locked.get(name, set())
    }


def try_tier(tier: str, short: bool) -> int:
    """Makes an environment with a tier's releases and runs the tests in it; the status says whether all passed."""
    versions = resolve(tier)
    apart = differences(versions)
    table = Table("package", "lock", tier, title=f"{tier} releases that are not the lock's")
    for name, pair in apart.items():
        table.add_row(name, *pair)
    Console().print(table if apart else f"the {tier} releases are those of the lock")
    if short and not apart:
        print(f"{tier} tier: nothing is newer than the lock; {_held_back()}")
        return 0
    with tempfile.TemporaryDirectory(prefix=f"lmms-flow-{tier}-") as folder:
        failed = _run(_install(Path(folder) / "venv", versions), Path(folder), short)
    direct = {each.name for each in declared()}
    named = ", ".join(f"{name} {new}" for name, (_, new) in apart.items() if name in direct) or "none of ours"
    more = len([name for name in apart if name not in direct])
    result = f"FAILS at: {failed}" if failed else "works"
    print(_held_back())
    print(f"{tier} tier, other than the lock: {named} (and {more} that they bring along): {result}")
    return bool(failed)


def _held_back() -> str:
    """The caps that even `newest` keeps, with their causes."""
    kept = (f"{each.requirement} ({each.reason})" for each in declared() if each.reason.startswith(BREAKS))
    return f"held back: {'; '.join(kept)}"


def _install(venv: Path, versions: dict[str, str]) -> Path:
    """Makes the environment and returns its python."""
    python = venv / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    uv("venv", "--quiet", "--python", sys.executable, str(venv))
    wanted = venv / "wanted.txt"
    wanted.write_text("".join(f"{name}=={version}\n" for name, version in versions.items()), encoding="utf-8")
    tools = [str(each.requirement) for each in declared("options.extras_require", "test")]
    into = ("pip", "install", "--quiet", "--python", str(python))
    uv(*into, "--requirement", str(wanted), *tools)
    uv(*into, "--no-deps", "--no-build-isolation", "--editable", str(ROOT))
    return python


def _run(python: Path, folder: Path, short: bool) -> str | None:
    """Runs what a tier must pass; returns the name of the first step that failed."""
    tests = (*SHORT, "-q") if short else ("-q", "-m", "not host", "-n", "2", "--dist", "loadfile")
    task = "flowbench_action_antonym"
    steps = {
        "the plug-in's own check": ("-m", "lmms_flow.cli", "verify", "--model_args", "pretrained=flow-tiny"),
        "a run through lmms-eval": (
            *("-m", "lmms_flow.cli", "eval", "--model", "llava_vid_flow", "--tasks", task, "--limit", "16"),
            *(
                "--model_args",
                f"pretrained=flow-tiny,flow=cross_frame@first_half,records={folder / 'records'}",
            ),
            *("--log_samples", "--output_path", str(folder / "results"), "--verbosity", "WARNING"),
        ),
        "the tests": ("-m", "pytest", *tests),
    }
    for name, step in steps.items():
        print(f"--- {name}", flush=True)
        # The tests speak to a hub of their own.
        offline = {} if name == "the tests" else {"HF_HUB_OFFLINE": "1"}
        environment = os.environ | ENVIRONMENT | offline
        done = subprocess.run([str(python), *step], cwd=ROOT, env=environment, check=False)
        if done.returncode:
            return name
    return None


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("lock", "platforms", "oldest", "newest"))
    parser.add_argument("--short", action="store_true", help="not the whole suite, the self-checks alone")
    args = parser.parse_args()
    if args.what == "lock":
        return lock()
    return platforms() if args.what == "platforms" else try_tier(args.what, args.short)


if __name__ == "__main__":
    sys.exit(main())
