"""The page's figures of several maps, the words on frames, its tables for spreadsheets, and how it is kept small."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lmms_flow.cli import main
from lmms_flow.records.arrays import place_of, write_arrays
from lmms_flow.records.record import SampleRecord
from lmms_flow.report.cells import harmless
from lmms_flow.report.maps import read_maps
from lmms_flow.report.page.as_seen import seen
from lmms_flow.report.page.beside_bases import beside_their_bases
from lmms_flow.report.page.building import report
from lmms_flow.report.page.cards import Deck
from lmms_flow.report.page.fitting import fitted
from lmms_flow.report.page.halves import half_of, halves
from lmms_flow.report.page.map_section import Drawn, map_section
from lmms_flow.report.page.options import Options
from lmms_flow.report.page.overlay import frames_with_words
from lmms_flow.report.page.parts import Section
from lmms_flow.report.traces import Traced, read_traces
from tests.support.clips import write_clip
from tests.support.lmms_logs import record, write_log, write_results
from tests.support.traced_runs import FRAMES, LAYERS, RULES, SIDE, arrays_of, write_run, write_traced

VIDEO = Path(__file__).parents[1] / "lmms_flow/assets/flowbench/clips/action_antonym-00-a.mp4"
TASKS = ("tvbench_flow_object_count", "tvbench_flow_action_antonym")


def drawn_in(folder: Path) -> list[Drawn]:
    """The maps of a folder, with their curves."""
    return [Drawn.of(each, f"map-{place}", 0) for place, each in enumerate(read_maps(folder / "results"))]


# Cuts from a layer on and up to one (the paper's Tables 2 and B)


@pytest.fixture(scope="module")
def sides(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tasks, traced with cuts up to each layer and from each layer on."""
    folder = tmp_path_factory.mktemp("sides")
    for style in ("to_layer", "from_layer"):
        for task in TASKS:
            write_traced(folder, [True] * 6 + [False] * 2, task, rules=RULES[:2], style=style)
    write_results(folder / "results", f"pretrained=tiny,records={folder / 'records'}", {})
    return folder


def test_the_table_of_halves_is_the_accuracy_among_the_right_answers(sides: Path) -> None:
    (block,) = halves(drawn_in(sides), 0)
    table = block.table
    assert table is not None
    assert [column.head for column in table.columns] == ["edges", "cut in layers", "all", *sorted(TASKS)]
    maps = {each.style: each for each in read_maps(sides / "results")}
    found = {(row[0], row[1]): row[2:] for row in table.rows}
    assert len(found) == 2 * len(maps["to_layer"].knockouts)
    for (rule, layers), cells in found.items():
        style, centre = ("to_layer", 6) if layers == "1-6" else ("from_layer", 7)
        for cell, tasks in zip(cells, [TASKS, *([task] for task in sorted(TASKS))], strict=True):
            right = [one for one in maps[style].samples if one.task in tasks and one.right]
            place = maps[style].place(rule)
            still = [one.prediction[place, centre - 1] == 1 for one in right]  # A, which was right
            assert cell[0] == pytest.approx(np.mean(still) - 1), (rule, layers)
            assert cell[1] <= cell[0] <= cell[2]
    assert {cells[0][0] for cells in found.values()} == {0.0, -1.0}, (
        "some cuts cost everything, others nothing"
    )


def test_every_target_set_has_a_figure_of_either_side(sides: Path) -> None:
    (block,) = halves(drawn_in(sides), 0)
    assert len(block.pictures) == len({picture.name for picture in block.pictures}) == 2 * 2
    first = block.pictures[0]
    assert "cut in all layers from" in first.caption
    assert "cross_frame is lowest at layer" in first.alt


def test_halves_of_an_odd_number_of_layers() -> None:
    assert half_of("to_layer", 32) == (16, range(1, 17))
    assert half_of("from_layer", 32) == (17, range(17, 33))
    assert half_of("to_layer", 7) == (3, range(1, 4))
    assert half_of("from_layer", 7) == (4, range(4, 8))


def test_the_halves_are_a_file_beside_the_page(sides: Path, tmp_path: Path) -> None:
    report([sides / "results"], tmp_path / "r.html", Options(with_frames=False))
    rows = list(csv.DictReader((tmp_path / "r" / "halves.csv").open()))
    assert {row["layers"] for row in rows} == {"1-6", "7-12"}
    assert "accuracy with half of the layers cut" in (tmp_path / "r.html").read_text()


# A VideoLLM and its image-only base (the paper's Fig 2)


def test_a_model_and_its_base_stand_in_one_figure_on_the_questions_of_both(tmp_path: Path) -> None:
    write_traced(tmp_path, [True] * 6 + [False] * 2, rules=RULES[:2], checkpoint="somebody/video")
    later = {"checkpoint": "somebody/image", "time": "20260101_000001"}
    write_traced(tmp_path, [True] * 3 + [False] * 2, rules=RULES[:2], **later)
    for time in ("20260101_000000", "20260101_000001"):
        write_results(tmp_path / "results", f"pretrained=tiny,records={tmp_path / 'records'}", {}, time=time)
    maps = drawn_in(tmp_path)
    (block,) = beside_their_bases(maps, 0)
    assert "image and video on the 5 questions of tvbench that all of them were asked" in block.text
    assert "(3, 5)" in block.text, "the right answers of each among them"
    (picture,) = block.pictures
    lines = [line for line in picture.figure.axes[0].lines if np.size(line.get_xdata()) == LAYERS]
    assert [line.get_label() for line in lines] == ["image", "video"]
    first, second = sorted(maps, key=lambda one: one.map.checkpoint)
    common = replace(second.map, samples=tuple(one for one in second.map.samples if one.doc_id < 5))
    assert lines[0].get_ydata() == pytest.approx(first.map.curve("cross_frame").mean)
    assert lines[1].get_ydata() == pytest.approx(common.curve("cross_frame").mean)
    assert not np.allclose(lines[1].get_ydata(), second.map.curve("cross_frame").mean)
    assert list(beside_their_bases(maps[:1], 0)) == []


def test_maps_without_a_common_question_are_not_drawn_together(tmp_path: Path) -> None:
    write_traced(tmp_path, [True] * 3, TASKS[0], rules=RULES[:2], checkpoint="a")
    write_traced(tmp_path, [True] * 3, TASKS[1], rules=RULES[:2], checkpoint="b")
    write_results(tmp_path / "results", f"pretrained=tiny,records={tmp_path / 'records'}", {})
    (block,) = beside_their_bases(drawn_in(tmp_path), 0)
    assert "have no question in common" in block.text
    assert not block.pictures


# Bins (the paper's Table E)


def test_the_table_of_bins_is_the_mean_of_the_curve_in_each(tmp_path: Path) -> None:
    results = write_run(tmp_path)
    (each,) = read_maps(results)
    section = map_section([Drawn.of(each, "map", 0)], (), ())
    assert section is not None
    table = next(block.table for block in section.blocks if block.table and block.table.name == "bins")
    assert [column.head for column in table.columns] == ["edges", "1-2", "3-4", "5-6", "7-8", "9-10", "11-12"]
    for rule, *means in table.rows:
        curve = each.curve(rule).mean
        assert means == pytest.approx(curve.reshape(6, 2).mean(axis=1).tolist())


# Words on frames (the paper's Fig 5)


def traced_with(folder: Path, video: str | Path, **about: object) -> Traced:
    """One traced question about this video, whose tokens speak one word in the first frame and another elsewhere."""
    made = arrays_of(True, 0, words=("bag", " up"))
    tokens = made.values["logit_lens.tokens"]
    tokens[..., 0] = 1
    tokens[:, : SIDE * SIDE, 0] = 0
    made = replace(made, about={**made.about, **about})
    place = place_of("trace", "key")
    write_arrays(folder, place, made, "part")
    told = {"video": str(video), "frames": tuple(range(FRAMES)), "arrays": place, "shapes": made.shapes}
    return Traced(SampleRecord.from_dict(record(0, True, "none", **told)), folder)


def test_the_lens_words_are_drawn_where_their_tokens_lie(tmp_path: Path) -> None:
    block = frames_with_words([traced_with(tmp_path, VIDEO)])
    assert block is not None
    assert [picture.caption for picture in block.pictures] == [
        "Layers 1-2: words on frames.",
        "Layers 5-6: words on frames.",
        "Layers 11-12: words on frames.",
    ]
    picture = block.pictures[0]
    assert "up 27 times, bag 9 times" in picture.alt
    panels = [axes for axes in picture.figure.axes if axes.images]
    assert len(panels) == FRAMES
    for number, axes in enumerate(panels):
        words = [text.get_text() for text in axes.texts]
        assert words == ["bag" if number == 0 else "up"] * SIDE * SIDE
        places = [text.get_position() for text in axes.texts]
        assert places == [(column + 0.5, row + 0.5) for row in range(SIDE) for column in range(SIDE)]
    assert ">bag</text>" in picture.inline()


def test_words_are_not_drawn_where_it_is_not_known_what_a_token_covers(tmp_path: Path) -> None:
    wide = write_clip(tmp_path / "wide.mp4", size=(48, 96), frames=8)
    one = traced_with(tmp_path, wide)
    assert frames_with_words([one]) is None
    cropped = seen(one, {**one.arrays().about, "fit": "crop"})
    squashed = seen(one, {**one.arrays().about, "fit": "squash"})
    assert cropped is not None
    assert squashed is not None
    assert cropped.pixels.shape == squashed.pixels.shape == (FRAMES, 48, 48, 3)
    assert not np.array_equal(cropped.pixels, squashed.pixels)
    merged = {**one.arrays().about, "frames": one.arrays().about["frames"][:2]}
    assert seen(traced_with(tmp_path, VIDEO), merged) is None, "two frames in one"
    stamped = {**one.arrays().about, "frames": [[3, 14], [14, 25], [25, 36], [36, 47]]}
    assert seen(traced_with(tmp_path, VIDEO), stamped) is None, "no square"


# Tables that a spreadsheet opens


@pytest.mark.parametrize(
    "text", ["=1+1", "+1+1", "-1+1", "@SUM(A1)", "\t=1", "\r=1", "＝1+1", "-", "=cmd|' /C calc'!A0"]
)
def test_a_text_is_no_formula(text: str) -> None:
    assert harmless(text) == f"'{text}"


@pytest.mark.parametrize("value", ["-1", "+2.5", "-1e-5", "A", "a=b", "", -1, -2.5, None, "1=1"])
def test_numbers_and_plain_texts_stay(value: object) -> None:
    assert harmless(value) == value


def test_no_cell_of_a_file_is_a_formula(tmp_path: Path) -> None:
    told: dict[str, Any] = {
        "answer": "=HYPERLINK(1)",
        "id": "+cmd",
        "options": {"A": 0.5, "B": 0.25},
        "category": "@x",
    }
    write_log(tmp_path, "none", [True, False], "a_b", line={"input": "=1+1", "target": "-x"}, **told)
    write_log(
        tmp_path, "blind", [False, True], "a_c", base="a_b", line={"input": "=1+1", "target": "-x"}, **told
    )
    assert main(["report", str(tmp_path), "--output", str(tmp_path / "r.html"), "--no-frames"]) == 0
    assert main(["compare", str(tmp_path), "--output", str(tmp_path / "c.csv")]) == 0
    cells = [
        cell
        for file in [*(tmp_path / "r").glob("*.csv"), *tmp_path.glob("c*.csv")]
        for row in csv.reader(file.open())
        for cell in row
    ]
    assert "'=HYPERLINK(1)" in cells
    assert "'+cmd" in cells
    formulas = [
        cell for cell in cells if cell.startswith(("=", "+", "@")) or re.match(r"-(?![\d.]+(e|$))", cell)
    ]
    assert not [cell for cell in formulas if harmless(cell) != cell]
    assert any(re.fullmatch(r"-[\d.]+", cell) for cell in cells), "negative numbers stay numbers"


# Small


def test_a_page_that_is_too_large_loses_cards_and_then_figures_and_says_so(tmp_path: Path) -> None:
    results = write_run(tmp_path)
    made = report([results], tmp_path / "whole.html", Options(alone=True))
    deck = Deck(tuple(f"card {number} {'x' * 1000}" for number in range(20)), (), left_out=3)
    figures = [picture for section in made.sections for block in section.blocks for picture in block.pictures]

    def render(deck: Deck, sections: Sequence[Section], left_out: int) -> str:
        drawn = [p.inline() for section in sections for block in section.blocks for p in block.pictures]
        return "".join([*drawn, *deck.cards, f"{deck.left_out} cards, {left_out} figures left out"])

    everything = render(deck, list(made.sections), 0)
    size = len(everything.encode())
    assert fitted(render, deck, made.sections, size) == everything
    fewer = fitted(render, deck, made.sections, size - 5000)
    assert len(fewer.encode()) <= size - 5000
    assert fewer.endswith("9 cards, 0 figures left out")
    assert "card 0 " in fewer, "the first ones, which were asked for, stay"
    bare = fitted(render, deck, made.sections, 100_000)
    assert len(bare.encode()) <= 100_000
    left_out = int(re.search(r"23 cards, (\d+) figures", bare)[1])  # type: ignore[index]
    assert 0 < left_out < len(figures)
    assert bare.count("<svg") == len(figures) - left_out


def test_the_page_says_what_it_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = write_run(tmp_path)
    assert len(read_traces(results)) == 16
    monkeypatch.setattr("lmms_flow.report.page.fitting.fitted.__defaults__", (250_000,))
    report([results], tmp_path / "r.html", Options(alone=True))
    text = (tmp_path / "r.html").read_text()
    assert len(text.encode()) <= 250_000
    assert "16 more questions have no room in this page" in text
    assert re.search(r"\d+ figures have no room in this page; they are in the folder beside it", text)
