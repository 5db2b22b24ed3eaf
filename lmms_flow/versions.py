"""Which versions of other packages this one was tried with: what its own metadata declares, and nothing else.

The bounds are written once, in setup.cfg. Every refusal that has to do with a version, and `lmms-flow doctor`, reads
them here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, requires, version

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

PACKAGE = "lmms-flow"


@dataclass(frozen=True)
class Tried:
    """One requirement of this package, beside what is installed."""

    name: str
    bounds: str  # such as ">=0.7.3,<0.8"; empty: any
    installed: str | None  # None: it is missing
    inside: bool  # the installed version is within the bounds
    needed: bool = True  # on this platform and Python, without extras

    def __str__(self) -> str:
        return f"{self.name} {self.installed or 'is not installed'}"


@cache
def requirements() -> tuple[Requirement, ...]:
    """What this package declares, markers of extras left out; empty where it is not installed at all."""
    try:
        lines = requires(PACKAGE) or []
    except PackageNotFoundError:
        return ()
    found = []
    for line in lines:
        try:
            requirement = Requirement(line)
        except InvalidRequirement:  # of a later packaging's syntax: pip has read it, we need not
            continue
        if not re.search(r"\bextra\b", str(requirement.marker or "")):
            found.append(requirement)
    return tuple(found)


def own_version() -> str:
    """The version of this package."""
    return installed_version(PACKAGE) or "(not installed)"


def installed_version(name: str) -> str | None:
    """The installed version of a package, or None."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def tried_range(name: str) -> str:
    """The declared bounds of a package, such as ">=0.7.3,<0.8"; empty where none are declared."""
    wanted = canonicalize_name(name)
    for requirement in requirements():
        if canonicalize_name(requirement.name) == wanted and _applies(requirement):
            return ",".join(sorted(map(str, requirement.specifier), key=lambda one: one[0] == "<"))
    return ""


def tried() -> list[Tried]:
    """Every declared package, by name."""
    table = []
    for requirement in requirements():
        here = installed_version(requirement.name)
        inside = here is not None and requirement.specifier.contains(here, prereleases=True)
        table.append(
            Tried(requirement.name, tried_range(requirement.name), here, inside, _applies(requirement))
        )
    return sorted(table, key=lambda one: one.name)


def what_to_install(name: str) -> str:
    """The end of an error's line: what was tried, and the command that installs it."""
    bounds = tried_range(name)
    if not bounds:
        return f"lmms-flow {own_version()} declares no versions of {name}"
    return (
        f"lmms-flow {own_version()} was tried with {name}{bounds}: "
        f'pip install "{name}{bounds}", or a later lmms-flow'
    )


def _applies(requirement: Requirement) -> bool:
    return requirement.marker is None or requirement.marker.evaluate()
