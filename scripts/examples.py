"""Runs the examples and writes what they print and draw into them: python -m scripts.examples."""

from __future__ import annotations

from pathlib import Path

import nbformat
from nbclient import NotebookClient

TIMEOUT = 900  # seconds of a cell: some of them evaluate
EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


def run(notebook: Path, folder: Path = EXAMPLES) -> nbformat.NotebookNode:
    """A notebook with the outputs of a fresh run in `folder`. Raises CellExecutionError where a cell fails."""
    content: nbformat.NotebookNode = nbformat.read(notebook, as_version=4)
    resources = {"metadata": {"path": str(folder)}}
    NotebookClient(content, timeout=TIMEOUT, kernel_name="python3", resources=resources).execute()
    for cell in content.cells:
        cell.metadata.pop("execution", None)  # the times of this run
        if "outputs" in cell:  # warnings name this machine's folders
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    return content


def main() -> None:
    for notebook in sorted(EXAMPLES.glob("*.ipynb")):
        print(notebook.name, flush=True)
        nbformat.write(run(notebook), notebook)


if __name__ == "__main__":
    main()
