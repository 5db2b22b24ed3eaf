"""The notebook of the examples runs as it is committed, and says and draws what it shows."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest

from scripts.examples import EXAMPLES, run


def printed(notebook: nbformat.NotebookNode) -> str:
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    return "".join(output.text for output in outputs if output.output_type == "stream")


def pictures(notebook: nbformat.NotebookNode) -> int:
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    return sum("image/png" in output.get("data", {}) for output in outputs)


@pytest.mark.parametrize("notebook", sorted(EXAMPLES.glob("*.ipynb")), ids=lambda path: path.stem)
def test_a_fresh_run_says_what_the_committed_one_says(notebook: Path, tmp_path: Path) -> None:
    committed, fresh = nbformat.read(notebook, as_version=4), run(notebook, tmp_path)
    number = re.compile(r"[01]\.\d{3}\b")  # probabilities, which another processor rounds otherwise
    says, said = printed(fresh), printed(committed)
    assert number.sub("#", says).split() == number.sub("#", said).split()
    found, shown = ([float(text) for text in number.findall(each)] for each in (says, said))
    assert len(shown) == 5
    assert found == pytest.approx(shown, abs=0.01)
    assert pictures(fresh) == pictures(committed) > 0


def test_the_first_knockout_shows_the_planted_route() -> None:
    """Cutting the route brings the answer to chance, two options; cutting the direct way costs nothing."""
    text = printed(nbformat.read(EXAMPLES / "first_knockout.ipynb", as_version=4))
    shown = {
        name.strip(): float(value) for name, value in re.findall(r"^(\S.*?)\s{2,}([01]\.\d{3})$", text, re.M)
    }
    assert shown["full attention"] > 0.95
    assert shown["video:last+video:tail"] > 0.95
    assert shown["effective-flow-tiny-closed"] > 0.95
    assert abs(shown["video:question@5-6"] - 0.5) < 0.15
    assert abs(shown["blind"] - 0.5) < 0.15
