"""The page for who has not read the docs: each word of it is told what it means, and none that it does not use."""

from __future__ import annotations

import re
from html import unescape
from pathlib import Path

import pytest

from lmms_flow.cli import main
from lmms_flow.report.board import Settings, make_boards
from lmms_flow.report.maps import read_maps
from lmms_flow.report.page.building import report
from lmms_flow.report.page.curve_figures import signed
from lmms_flow.report.page.findings import findings
from lmms_flow.report.page.glossary import cut_of, way_of, words_of_arms
from lmms_flow.report.page.map_section import Drawn
from lmms_flow.report.page.options import Options
from lmms_flow.report.runs import read_arms
from lmms_flow.report.tables_of_tests import temporal
from tests.support.lmms_logs import TIME, record, write_lines, write_log
from tests.support.traced_runs import RULES, write_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with arms and traces, reported."""
    results = write_run(tmp_path_factory.mktemp("run"))
    report([results], results / "report.html", Options(alone=True))
    return results


def test_every_kind_of_edge_and_group_on_the_page_is_told_what_it_is(run: Path) -> None:
    text = (run / "report.html").read_text()
    section = text.partition('<section id="maps"')[2].partition("</section>")[0]
    told = dict(re.findall(r"<dt><dfn>([^<]+)</dfn></dt><dd>([^<]+)</dd>", section.partition("<svg")[0]))
    groups = {group for rule in RULES if ":" in rule for group in rule.split(":")}
    assert groups - {"video"} <= told.keys(), "what needs no word is the video alone"
    assert told["cross_frame"] == "what a frame can read of earlier frames"
    assert told["stem"] == "the question without its options"
    assert "system" not in told, "no edge of it was cut"


def test_the_first_sentences_say_in_words_what_edges_are(run: Path) -> None:
    (board,), drawn = make_boards(read_arms([run]), Settings()), Drawn.of(read_maps(run)[0], "map", 0)
    _, flow, _ = findings(board, [drawn])
    assert "from the video to the question with its options (video:question) in layers 1 to 4" in flow
    assert ", so that the false options read nothing of the question without its options there, has" in flow
    assert cut_of("last:last") == "the prompt's last token does not read itself"
    assert (way_of("frame.0:last"), cut_of("frame.0:last")) == ("", ""), (
        "no sentence is made up of other groups"
    )
    text = (run / "report.html").read_text()
    header = text.partition("<header>")[2].partition("</header>")[0]
    assert {
        "edge",
        "knockout",
        "full attention",
        "flow",
        "arm",
        "baseline",
        "Δ",
        "none",
        "blind",
        "@",
    } <= set(re.findall(r"<dfn>([^<]+)</dfn>", header))
    assert "<dfn>sham</dfn>" not in header, "no arm of this run is a sham"


def test_words_of_arms_are_of_those_that_were_run(tmp_path: Path) -> None:
    for number, flow in enumerate(("none", "sham", "random:0.5:seed1", "effective_closed")):
        write_log(tmp_path, flow, [True, False], f"t{number}", base="t")
    names = [name for name, _ in words_of_arms(read_arms([tmp_path]))]
    assert names == ["none", "sham", "effective", "closed", "random"]
    write_log(tmp_path / "alone", "none", [True, False])
    assert main(["report", str(tmp_path / "alone"), "--output", str(tmp_path / "r.html")]) == 0
    assert "<dfn>flow</dfn>" not in (tmp_path / "r.html").read_text(), "nothing was cut"


PLAIN = {
    "model",
    "task",
    "document",
    "status",
    "reason",
    "date",
    "checkpoint",
    "run on",
    "frames",
    "versions",
}
PLAIN |= {
    "questions",
    "claim",
    "what it says",
    "source",
    "flip",
    "baseline's answer",
    "answer",
    "right answer",
}


def test_every_column_says_what_it_holds(run: Path) -> None:
    text = (run / "report.html").read_text()
    tables = re.findall(r'<table class="sortable">.*?</table>', text, re.DOTALL)
    heads = [head for table in tables for head in re.findall(r'<th scope="col"([^>]*)>([^<]+)</th>', table)]
    assert len(heads) > 60
    silent = {unescape(head) for attributes, head in heads if "title=" not in attributes}
    # The bins of layers have no other name.
    assert {head for head in silent if not re.fullmatch(r"\d+-\d+", head)} <= PLAIN
    board = text.partition('id="board-tvbench"')[2].partition("</section>")[0]
    assert re.search(r"<dfn>within ±2</dfn></dt><dd>[^<]+TOST", board)
    assert re.search(r"<dfn>Δ of its right</dfn></dt><dd>[^<]+that the baseline answers right", board)


def test_a_note_is_only_of_columns_that_are_there(tmp_path: Path) -> None:
    rows = [
        {
            "doc_id": n,
            "target": "A",
            "input": "q",
            "accuracy": 1.0,
            "record": record(n, True, "none", pair=str(n ^ 1)),
        }
        for n in range(4)
    ]
    write_lines(tmp_path / f"{TIME}_samples_t.jsonl", rows)
    board = make_boards(read_arms([tmp_path]), Settings())[0]
    table = temporal(board)
    assert [column.head for column in table.columns] == ["arm", "pairs", "both right [95 %]"]
    assert not re.search("turned|show|temporal", " ".join(table.notes))


def test_nothing_has_no_sign() -> None:
    assert [signed(value) for value in (-0.04, 0.04, -0.06, 12.34)] == ["0.0 %", "0.0 %", "−0.1 %", "+12.3 %"]
