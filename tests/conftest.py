"""Shared fixtures: the loopback hub, and on it the repositories that users name."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import settings

from tests.support.hub import Hub, serve

# Before torch is imported. The tensors are tiny: on a busy machine, threads that wait for one another cost far
# more time than they save.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# lmms-eval loads metrics by a library that counts each load on a server.
os.environ.setdefault("HF_UPDATE_DOWNLOAD_COUNTS", "0")

# A run tries the same examples every time; `--hypothesis-profile=long` tries many more of them.
settings.register_profile("quick", max_examples=100, derandomize=True, deadline=None, database=None)
settings.register_profile("long", settings.get_profile("quick"), max_examples=10_000)
settings.load_profile("quick")

HERE = ("localhost", "127.0.0.1", "::1", None)


@pytest.fixture(scope="session", autouse=True)
def _no_network() -> Iterator[None]:
    """No address but this machine's own is found by a test's process, whatever a library's thread asks for."""
    found = socket.getaddrinfo

    def look_up(host: Any, *args: Any, **kwargs: Any) -> Any:
        if (host.decode() if isinstance(host, bytes) else host) in (*HERE, socket.gethostname()):
            return found(host, *args, **kwargs)
        raise socket.gaierror(socket.EAI_NONAME, "tests speak to this machine alone")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", look_up)
        yield


PAPER_7B = "byminji/LLaVA-NeXT-7B-Video-FT"


@pytest.fixture(scope="session")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    """An empty hub; makers write into `hub.folder("models", "ORG/NAME")`."""
    with serve(tmp_path_factory.mktemp("hub")) as running:
        yield running


@pytest.fixture(scope="session")
def paper_hub(hub: Hub) -> Hub:
    """The hub with a tiny model under the name of the paper's 7B checkpoint (32 layers), and a made TVBench."""
    from tests.support.checkpoints import paper_llava
    from tests.support.tvbench import REPOSITORY, make_tvbench

    paper_llava(hub.folder("models", PAPER_7B), layers=32, shards=3)
    make_tvbench(hub.folder("datasets", REPOSITORY), rows=3)
    return hub
