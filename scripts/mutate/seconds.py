"""A plug-in of pytest: how long each test takes, and which modules of others they load."""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from pathlib import Path
from typing import Any

OTHERS = (
    *(
        "torch",
        "torchvision",
        "transformers",
        "accelerate",
        "safetensors",
        "tokenizers",
        "huggingface_hub",
        "datasets",
    ),
    *(
        "numpy",
        "scipy",
        "statsmodels",
        "pandas",
        "matplotlib",
        "PIL",
        "av",
        "decord",
        "jinja2",
        "rich",
        "pydantic",
    ),
    *("hypothesis", "peft", "yaml", "tqdm", "loguru", "psutil"),
)

_seconds: Counter[str] = Counter()
_failed: set[str] = set()


def pytest_runtest_logreport(report: Any) -> None:
    """Adds up a test's three phases."""
    _seconds[report.nodeid] += report.duration
    if report.failed:
        _failed.add(report.nodeid)


def pytest_sessionfinish(session: Any) -> None:
    """Written by the process that hands out the tests; the modules by those that run them."""
    folder = Path(os.environ["MUTATE_SECONDS"])
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    if worker:
        loaded = sorted(name for name in sys.modules if name.partition(".")[0] in OTHERS)
        (folder / f"modules-{worker}.json").write_text(json.dumps(loaded))
        return
    file = folder / "seconds.json"
    before: dict[str, float] = json.loads(file.read_text()) if file.is_file() else {}
    kept = {name: seconds for name, seconds in _seconds.items() if name not in _failed}
    file.write_text(json.dumps(before | kept))
