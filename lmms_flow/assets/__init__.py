"""What ships with the package: flowbench, a small benchmark of real clips, and flow-tiny, a model that solves it."""

from __future__ import annotations

from pathlib import Path

_HERE = Path(__file__).resolve().parent


def flow_tiny_dir() -> Path:
    """Folder of the bundled checkpoint, as `from_pretrained` takes it."""
    return _HERE / "flow-tiny"


def flowbench_dir() -> Path:
    """Folder of the bundled benchmark: one JSON-lines file a family, and `clips/`."""
    return _HERE / "flowbench"
