"""A checkout is whole: `lmms_flow` and the folders that are installed into it come from one place.

In a checkout `model_wrappers/` and `tasks/` lie beside `lmms_flow/`. With one checkout installed (editable) and
another as the current folder or on PYTHONPATH, Python finds `lmms_flow` in the one and the two folders in the other.
"""

from __future__ import annotations

from pathlib import Path

from lmms_flow.errors import RunError


def check_whole(part: str) -> None:
    """Raises RunError where `part`, the `__file__` of an installed folder, is of another checkout than this file."""
    package, folder = Path(__file__).parent, Path(part).parent
    if folder.parent == package:  # a wheel has the folders inside the package
        return
    here, there = package.resolve().parent, folder.resolve().parent
    if there not in (here, package.resolve()):
        raise RunError(
            f"lmms_flow is imported from {here}, but its {folder.name} from {there}: two checkouts are mixed; install "
            f"the one that you mean (pip install -e {here}), or take {here} off PYTHONPATH and leave that folder"
        )
