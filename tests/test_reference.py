"""Pages that are made from the code, or hold figures that are computed, are what the code says today."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import yaml

from lmms_flow import __version__
from lmms_flow.flow import PRESETS
from lmms_flow.flow.shapes import SHAPES
from lmms_flow.runner.arguments import ModelArguments
from scripts.model_arguments import PAGE, page

ROOT = Path(__file__).parents[1]


def test_the_reference_of_model_args_is_made_from_the_arguments() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run python -m scripts.model_arguments"
    for field in fields(ModelArguments):
        (row,) = re.findall(rf"^\| `{field.name}` \|.*$", page(), re.MULTILINE)
        assert len(row.split("|")[3].strip()) > 5, f"a word on {field.name} in a comment beside it"


def test_the_weights_are_as_large_as_the_page_says() -> None:
    text = (ROOT / "docs" / "gpu.md").read_text(encoding="utf-8")
    for preset in PRESETS[:4]:
        shape = SHAPES[preset.name]
        tower = shape.vision.layers * (
            4 * shape.vision.width**2 + 2 * shape.vision.width * shape.vision.mlp_width
        )
        decoder = sum(shape.decoder.weights) + 2 * shape.decoder.head_weights
        billions = (decoder + tower + shape.vision.projector_weights) / 1e9
        (told,) = re.findall(rf"\| `{preset.checkpoints[0]}` \| ([0-9.]+) GB \| ([0-9.]+) GB \|", text)
        assert [float(each) for each in told] == [round(2 * billions, 1), round(4 * billions, 1)]


def test_the_citation_names_the_paper_and_this_version() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert cited["version"] == __version__
    (paper,) = cited["references"]
    bibtex = (ROOT / "docs" / "citing.md").read_text(encoding="utf-8")
    assert paper["title"] == "Map the Flow: Revealing Hidden Pathways of Information in VideoLLMs"
    assert paper["title"].replace("VideoLLMs", "{VideoLLMs}") in bibtex
    assert paper["identifiers"][0]["value"] in bibtex
    assert __version__ in bibtex
    for author in paper["authors"]:
        assert f"{author['family-names']}, {author['given-names']}" in bibtex


def test_exit_statuses_are_those_of_the_code() -> None:
    text = (ROOT / "docs" / "exit-statuses.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| (\d+) \|", text, re.MULTILINE)) == {"0", "1", "2", "130", "141", "143"}
