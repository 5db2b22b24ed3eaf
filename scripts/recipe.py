"""The conda recipe, made of setup.cfg: python -m scripts.recipe writes recipe/recipe.yaml.

Requirements have other names there, and no markers: one package is built for every platform. What is not on all of
them is left out where the package runs without it.
"""

from __future__ import annotations

import configparser
from pathlib import Path
from typing import Any

import yaml

from scripts.versions import ROOT, declared

FILE = ROOT / "recipe/recipe.yaml"
HEAD = """\
# Made by `python -m scripts.recipe` from setup.cfg; a test holds it to that.
# A channel's recipe has the released sdist's address and sha256 in the place of `path`.
"""
NAMES = {"torch": "pytorch", "matplotlib": "matplotlib-base", "xxhash": "python-xxhash"}
LEFT_OUT = {"decord": "no build for every platform; PyAV reads where it is missing"}


def recipe() -> dict[str, Any]:
    """Version 1 of the format of recipes."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    about, options = config["metadata"], config["options"]
    scripts = config["options.entry_points"]["console_scripts"].strip().splitlines()
    python = options["python_requires"]
    return {
        "schema_version": 1,
        "context": {"version": about["version"]},
        "package": {"name": about["name"], "version": "${{ version }}"},
        "source": {"path": ".."},
        "build": {
            "number": 0,
            "noarch": "python",
            "script": "python -m pip install . --no-deps --no-build-isolation -vv",
            "python": {"entry_points": scripts},
        },
        "requirements": {
            "host": [f"python {python}", "pip", *_build_system()],
            "run": [f"python {python}", *(_conda(each.requirement) for each in _needed())],
        },
        "tests": [
            {"python": {"imports": ["lmms_flow", "lmms_flow.engine", "lmms_flow.report"]}},
            {"script": ["lmms-flow --version", "lmms-flow show video:question@6-20"]},
        ],
        "about": {
            "summary": about["description"],
            "license": about["license"],
            "license_file": about["license_files"],
        },
    }


def text() -> str:
    """The file."""
    return HEAD + yaml.safe_dump(recipe(), sort_keys=False, width=120)


def _needed() -> list[Any]:
    return [each for each in declared() if each.name not in LEFT_OUT]


def _conda(requirement: Any) -> str:
    name = NAMES.get(requirement.name, requirement.name)
    return f"{name} {requirement.specifier}".strip()


def _build_system() -> list[str]:
    import tomllib

    content = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return [each.replace(">=", " >=") for each in content["build-system"]["requires"]]


def main() -> None:
    Path(FILE).parent.mkdir(exist_ok=True)
    FILE.write_text(text(), encoding="utf-8")
    print(FILE.relative_to(ROOT))


if __name__ == "__main__":
    main()
