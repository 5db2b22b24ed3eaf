"""Runs of the real command lines, as on a fresh machine whose model hub is the one on the loopback."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil

from tests.support.hub import Hub

Environment = dict[str, str]


def host_env(hub: Hub, home: Path) -> Environment:
    """A user's environment without what this machine adds to it; `home` keeps what is downloaded."""
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
        "OMP_NUM_THREADS": "1",  # as in conftest.py
        "CUDA_VISIBLE_DEVICES": "",  # the same answers on every machine
    }


def run_cli(
    args: Sequence[str], env: Environment, *, cwd: Path, program: str = "lmms-eval", timeout: float = 300
) -> subprocess.CompletedProcess[str]:
    """`lmms-eval ...` or `lmms-flow ...` as installed beside this Python, in a folder without our sources."""
    return subprocess.run(
        _command(program, args),
        env=env,
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def start_cli(
    args: Sequence[str], env: Environment, *, cwd: Path, program: str = "lmms-eval", output: Any
) -> subprocess.Popen[str]:
    """The same, not waited for; `output` takes what it prints."""
    return subprocess.Popen(
        _command(program, args), env=env, cwd=cwd, stdout=output, stderr=subprocess.STDOUT, text=True
    )


def wait_until(
    condition: Callable[[], Any], process: subprocess.Popen[str], *, every: float = 0.01, timeout: float = 300
) -> None:
    """Returns when the condition holds or the process has ended; one that does neither is killed: TimeoutError."""
    deadline = time.monotonic() + timeout
    while process.poll() is None and not condition():
        if time.monotonic() > deadline:
            process.kill()
            raise TimeoutError(f"{process.args!r}: nothing for {timeout} s")
        time.sleep(every)


def _command(program: str, args: Sequence[str]) -> list[str]:
    return [str(Path(sys.executable).with_name(program)), *args]


def processes_in(folder: Path) -> list[psutil.Process]:
    """Processes that were started in a folder, whoever their parent is."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.cwd() == str(folder):
                found.append(process)
    return found
