"""The notebooks of the examples run as they are committed, and say and draw what they show."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest
import yaml

from scripts.examples import EXAMPLES, run


def printed(notebook: nbformat.NotebookNode) -> str:
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    return "".join(output.text for output in outputs if output.output_type == "stream")


def pictures(notebook: nbformat.NotebookNode) -> int:
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    return sum("image/png" in output.get("data", {}) for output in outputs)


def html(notebook: nbformat.NotebookNode) -> list[str]:
    """What results show of themselves."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    return ["".join(output.data["text/html"]) for output in outputs if "text/html" in output.get("data", {})]


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    "notebook",
    [
        pytest.param(path, id=path.stem, marks=() if path.stem == "first_knockout" else pytest.mark.host)
        for path in sorted(EXAMPLES.glob("*.ipynb"))
    ],
)
def test_a_fresh_run_says_what_the_committed_one_says(notebook: Path, tmp_path: Path) -> None:
    committed, fresh = nbformat.read(notebook, as_version=4), run(notebook, tmp_path)
    number = re.compile(r"[01]\.\d{3}\b")  # probabilities, which another processor rounds otherwise
    says, said = printed(fresh), printed(committed)
    assert number.sub("#", says).split() == number.sub("#", said).split()
    found, shown = ([float(text) for text in number.findall(each)] for each in (says, said))
    assert len(shown) >= 4
    assert found == pytest.approx(shown, abs=0.01)
    assert pictures(fresh) == pictures(committed)
    assert len(html(fresh)) == len(html(committed))
    assert pictures(fresh) + len(html(fresh)) >= 2
    assert all(len(piece.encode()) < 200_000 for piece in html(fresh))


def test_the_notebooks_are_five() -> None:
    names = {path.stem for path in EXAMPLES.glob("*.ipynb")}
    assert names == {
        "first_knockout",
        "curve_of_one_clip",
        "map_of_a_benchmark",
        "finding_a_pathway",
        "model_of_your_own",
    }


@pytest.mark.parametrize("notebook", sorted(EXAMPLES.glob("*.ipynb")), ids=lambda path: path.stem)
def test_a_notebook_names_no_folder_of_the_machine_that_ran_it(notebook: Path) -> None:
    outputs = [cell.get("outputs", []) for cell in nbformat.read(notebook, as_version=4).cells]
    assert not re.findall(r"/(?:tmp|home|root|var|work)/[^\s\"'<]+", str(outputs))


def test_the_example_of_a_run_from_a_file_names_arguments_that_lmms_eval_has(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from lmms_flow.harness import host

    monkeypatch.setattr("sys.argv", ["lmms-eval"])  # which it reads
    known = {action.dest for action in host.PARSE_ARGS.take()()[0]._actions}
    given = yaml.safe_load((EXAMPLES / "leaderboard.yaml").read_text(encoding="utf-8"))
    assert given.keys() <= known
    assert given["model_args"].startswith("pretrained=flow-tiny")


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
