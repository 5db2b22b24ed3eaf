"""Shared fixtures: the loopback hub with the repositories that users name, and runs of the real command lines."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from tests.hub import Hub, serve

PAPER_7B = "byminji/LLaVA-NeXT-7B-Video-FT"
Environment = dict[str, str]
RunCli = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    """An empty hub; makers write into `hub.folder("models", "ORG/NAME")`."""
    with serve(tmp_path_factory.mktemp("hub")) as running:
        yield running


@pytest.fixture(scope="session")
def paper_hub(hub: Hub) -> Hub:
    """The hub with a tiny model under the name of the paper's 7B checkpoint (32 layers), and a made TVBench."""
    from tests.checkpoints import paper_llava
    from tests.tvbench import REPOSITORY, make_tvbench

    paper_llava(hub.folder("models", PAPER_7B), layers=32, shards=3)
    make_tvbench(hub.folder("datasets", REPOSITORY), rows=3)
    return hub


def host_env(hub: Hub, home: Path) -> Environment:
    """The environment of a user on a fresh machine whose model hub is ours; `home` keeps what is downloaded."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.lower().endswith("_proxy") and not name.startswith(("HF_", "LMMS_", "TRANSFORMERS_"))
    }
    return inherited | {
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(home),
        "HF_TOKEN": "x",  # TVBench's task asks for a token, the hub takes any
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_XET": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "OMP_NUM_THREADS": "2",
        "CUDA_VISIBLE_DEVICES": "",  # the same answers on every machine
    }


def run_cli(
    args: Sequence[str], env: Environment, *, cwd: Path, program: str = "lmms_eval", timeout: float = 300
) -> subprocess.CompletedProcess[str]:
    """`python -m program args` in a process of its own, in a folder that has none of our sources."""
    command = [sys.executable, "-m", program, *args]
    return subprocess.run(
        command, env=env, cwd=cwd, capture_output=True, text=True, timeout=timeout, check=False
    )
