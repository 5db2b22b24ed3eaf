"""A headless Chromium that is driven through its own pipe: no driver, no package, no port."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome", "chrome")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--remote-debugging-pipe",
    "--no-first-run",
    "--mute-audio",
)
LONGEST = 120  # seconds until a browser that says nothing is ended


def find_chromium() -> str | None:
    """The browser of this machine; LMMS_FLOW_CHROMIUM names another."""
    named = os.environ.get("LMMS_FLOW_CHROMIUM")
    return named or next(filter(None, map(shutil.which, NAMES)), None)


class Browser:
    """One tab."""

    def __init__(self, reader: Any, writer: Any) -> None:
        self._reader, self._writer, self._numbers = reader, writer, itertools.count(1)
        self._session: str | None = None
        self.requests: list[str] = []  # what the page loaded
        self.complaints: list[str] = []  # what its console said
        self._loaded = False
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> Any:
        """One command of the DevTools protocol, and its answer."""
        number = next(self._numbers)
        message: dict[str, Any] = {"id": number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        self._writer.write(json.dumps(message).encode() + b"\0")
        self._writer.flush()
        while True:
            answer = self._receive()
            if answer.get("id") == number:
                assert "error" not in answer, answer
                return answer["result"]

    def open(self, file: Path, width: int, height: int = 900, scheme: str = "light") -> None:
        """Loads a file in a window of this size, and waits until all of it is there."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.requests.clear()
        self.complaints.clear()
        self._loaded = False
        self.call("Page.navigate", url=file.resolve().as_uri())
        while not self._loaded:
            self._receive()

    def run(self, script: str) -> Any:
        """The value of an expression in the page; a promise is waited for."""
        made = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in made, made["exceptionDetails"]
        return made["result"].get("value")

    def _receive(self) -> dict[str, Any]:
        data = bytearray()
        while (sign := self._reader.read(1)) != b"\0":
            assert sign, "the browser ended"
            data += sign
        message: dict[str, Any] = json.loads(data)
        method, parameters = message.get("method"), message.get("params", {})
        if method == "Network.requestWillBeSent":
            self.requests.append(parameters["request"]["url"])
        elif method == "Page.loadEventFired":
            self._loaded = True
        elif method == "Log.entryAdded":
            self.complaints.append(parameters["entry"]["text"])
        elif method == "Runtime.exceptionThrown":
            self.complaints.append(json.dumps(parameters["exceptionDetails"]))
        return message


@contextmanager
def chromium(program: str, profile: Path) -> Iterator[Browser]:
    """Inside the block a browser runs; it is ended with it."""
    to_read, from_us = os.pipe()
    from_it, to_write = os.pipe()

    def connect() -> None:  # the browser reads from 3 and writes to 4, wherever our ends are
        ours = [os.dup2(os.dup(end), place) for end, place in ((to_read, 60), (to_write, 61))]
        for end, place in zip(ours, (3, 4), strict=True):
            os.dup2(end, place)

    command = [program, *FLAGS, f"--user-data-dir={profile}"]
    process = subprocess.Popen(
        command,
        preexec_fn=connect,
        pass_fds=(3, 4),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(to_read)
    os.close(to_write)
    try:
        with open(from_it, "rb") as reader, open(from_us, "wb") as writer:
            yield Browser(reader, writer)
    finally:
        process.kill()
        process.wait(LONGEST)
