"""A run and its comparison in a terminal of 80 columns: what docs/first-hour.md shows, line by line."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from lmms_flow.cli import main
from tests.support.terminal import in_terminal, widest

pytestmark = [pytest.mark.host, pytest.mark.timeout(900)]

PAGE = (Path(__file__).parents[1] / "docs" / "first-hour.md").read_text(encoding="utf-8")


def test_a_run_prints_what_the_page_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (command,) = re.findall(r"^    lmms-flow (eval .*)$", PAGE, re.MULTILINE)
    run, _, compared = re.findall(r"```text\n(.*?)```", PAGE, re.DOTALL)
    status, text = in_terminal(lambda: main(shlex.split(command)), 80)
    assert status == 0, text
    for line in run.splitlines():
        assert line in text
    assert "self-check: 12 checks passed; a cut changes the answer by " in text
    assert not re.search(r"\|(errors|skipped|unreadable)", text)
    status, again = in_terminal(lambda: main(shlex.split(command)), 80)
    assert status == 0
    assert "24 answers: 24 from the records, 0 new" in again
    status, text = in_terminal(lambda: main(["compare", "out"]), 80)
    assert (status, widest(text) <= 80) == (0, True)
    shown = "\n".join(line.rstrip() for line in text.splitlines())
    assert compared.strip() in shown
