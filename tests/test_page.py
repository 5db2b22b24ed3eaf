"""The page of a run: what it says, that it stands alone, and that nothing foreign gets into it as code."""

from __future__ import annotations

import csv
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from lmms_flow.cli import main
from lmms_flow.report import samples_df
from lmms_flow.report.board import Settings, make_boards
from lmms_flow.report.maps import read_maps
from lmms_flow.report.page.building import report
from lmms_flow.report.page.failures import cases, repaired_in, repairs
from lmms_flow.report.page.findings import findings
from lmms_flow.report.page.map_section import Drawn
from lmms_flow.report.page.options import Options
from lmms_flow.report.runs import read_arms, read_runs
from tests.support.lmms_logs import write_log, write_results
from tests.support.traced_runs import RULES, write_run, write_traced

ALONE = Options(alone=True)
HOSTILE = '"><img src=x onerror=alert(1)><script>alert(2)</script>--><!-- ]]> {{ 7 * 7 }} \x1b[31m $x$'


class Page(HTMLParser):
    """What a page is made of, and whether its elements are closed in order."""

    VOID = ("meta", "img", "br", "link", "input")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loads: list[str] = []
        self.tags: list[str] = []
        self.handlers: list[str] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        named = ("src", "href", "xlink:href", "srcset", "data")
        self.loads += [str(value) for name, value in attrs if name in named]
        self.handlers += [name for name, _ in attrs if name.startswith("on")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with arms and traces, reported."""
    results = write_run(tmp_path_factory.mktemp("run"))
    assert main(["report", str(results)]) == 0
    return results


def test_the_page_stands_alone_and_has_every_section(run: Path) -> None:
    text = (run / "report.html").read_text()
    page = Page(text)
    assert page.open == []
    assert page.tags.count("script") == page.tags.count("h1") == 1
    assert not page.handlers
    assert not set(page.tags) & {"iframe", "object", "embed", "link"}
    assert all(source.startswith(("data:image/", "#")) for source in page.loads)
    for name in (
        "ran",
        "board-tvbench",
        "maps",
        "probability",
        "lens",
        "attention",
        "failures",
        "ledger",
        "questions",
    ):
        assert f'id="{name}"' in text, name
    assert len(text) < 3_000_000


def test_the_sentences_say_what_the_numbers_say(run: Path) -> None:
    board = make_boards(read_arms([run]), Settings())[0]
    drawn = [Drawn.of(each, "map", 0) for each in read_maps(run)]
    accuracy, flow, failures = findings(board, drawn)
    assert accuracy.startswith(
        "tiny answers 75.0 % [50.5, 89.8] of 16 questions of tvbench right under full attention"
    )
    curves = [read_maps(run)[0].curve(rule) for rule in RULES]
    deepest = min(curves, key=lambda curve: float(curve.mean.min()))
    assert f"Cutting {deepest.knockout} around layer {1 + int(deepest.mean.argmin())}," in flow
    assert "in the mean of 12 questions" in flow
    assert failures == (
        "Of the 4 questions that full attention answers wrong, cross_frame@1-6 repairs the most, 4 (100 %), and breaks "
        "5 right ones."
    )
    text = (run / "report.html").read_text()
    assert all(sentence.replace("'", "&#39;") in text for sentence in (accuracy, flow, failures))


def test_without_traces_without_cuts_and_without_answers_there_are_sentences_too(tmp_path: Path) -> None:
    def said(
        folder: str, name: str = "none", correct: tuple[bool | None, ...] = (True, True)
    ) -> tuple[str, str, str]:
        write_log(tmp_path / folder, name, correct)
        return findings(make_boards(read_arms([tmp_path / folder]), Settings())[0], [])

    assert said("a")[1:] == (
        "No flow was cut beside full attention, so nothing is known of where information flows.",
        "Full attention answers none of them wrong, so there is no wrong answer for a cut to repair.",
    )
    assert (
        said("b", correct=(True, False))[2]
        == "Full attention answers 1 questions wrong, and no cut was tried on them."
    )
    assert said("c", correct=(None, None))[0] == "None of t's questions could be scored for tiny."
    assert "right under video:last" in said("d", "video:last")[0]


# Failure analysis


def test_cases_and_repairs_are_counted(run: Path) -> None:
    board = make_boards(read_arms([run]), Settings())[0]
    by_name = {one.entry.arm.flow: one for one in repairs(board)}
    cut, blind = by_name["cross_frame@1-6"], by_name["blind"]
    assert (cut.wrong, cut.repaired, cut.lost) == (4, 4, 5)
    assert (blind.wrong, blind.repaired, blind.lost) == (4, 0, 12)
    # The baseline's wrong answer is B, at 0.1; under the arms it has 0.7.
    assert (cut.falls, cut.rises) == (0, 4)
    assert cut.change == pytest.approx(0.6)


def test_cases_of_a_map_are_those_of_its_arrays(run: Path) -> None:
    wrong = read_maps(run)[0].among("wrong")
    assert len(wrong.samples) == 4
    falls, rises = cases(wrong, "video:question")
    assert (len(falls.samples), len(rises.samples)) == (4, 0)
    # A wrong A becomes B, which is right, where its probability falls below a half.
    place = wrong.place(RULES[-1])
    expected = 100 * np.mean([one.probability[place] <= 0.5 for one in wrong.samples], axis=0)
    assert repaired_in(wrong, RULES[-1]).mean == pytest.approx(expected)
    assert expected.max() == 100
    rows = list(csv.DictReader((run / "report" / "cases.csv").open()))
    assert {row["edges"]: row["case_1"] for row in rows}[RULES[-1]] == "4"


# What is drawn is what was read


def test_curves_are_written_as_they_are_drawn(run: Path) -> None:
    rows = list(csv.DictReader((run / "report" / "curves.csv").open()))
    (each,) = read_maps(run)
    for rule in RULES:
        mean = [float(row["mean"]) for row in rows if row["knockout"] == rule]
        assert mean == pytest.approx(each.curve(rule).mean.tolist())
    drawn = Drawn.of(each, "map", 0)
    line = drawn.curves["cross_frame"]
    assert line.layers == tuple(range(1, 13))


def test_every_figure_is_a_png_and_an_svg_beside_the_page(run: Path) -> None:
    names = re.findall(r'<figure id="([^"]+)">', (run / "report.html").read_text())
    assert len(names) == len(set(names)) > 15
    for name in names:
        assert (run / "report" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert "<svg" in (run / "report" / f"{name}.svg").read_text()


def test_the_same_page_comes_out_each_time(run: Path, tmp_path: Path) -> None:
    report([str(run)], tmp_path / "again.html", ALONE)
    assert (tmp_path / "again.html").read_text() == (run / "report.html").read_text()
    assert list(tmp_path.iterdir()) == [tmp_path / "again.html"]


def test_a_limit_and_unequal_boards_are_said_and_not_put_in_one_table(tmp_path: Path) -> None:
    write_log(tmp_path / "a", "none", [True] * 8)
    write_log(tmp_path / "b", "blind", [False] * 3, time="20260101_000009")
    file = write_results(tmp_path / "b", "pretrained=tiny", {}, time="20260101_000009")
    file.write_text(file.read_text().replace('"model":', '"limit": 3.0, "model":'))
    assert main(["report", str(tmp_path), "--output", str(tmp_path / "r.html")]) == 0
    text = (tmp_path / "r.html").read_text()
    assert "the run of 20260101_000009 was limited to at most 3 questions of each task" in text
    assert "none (full attention): 8; blind (no video): 3" in text
    assert "accuracy by arm (%), 8 questions" in text
    assert "accuracy by arm (%), 3 questions" in text
    boards = make_boards(read_runs([tmp_path]).arms, Settings())
    assert [len(part.entries) for part in boards[0].alike] == [1, 1]


# Cards


def test_a_card_for_each_flip_and_for_what_is_named(run: Path, tmp_path: Path) -> None:
    text = (run / "report.html").read_text()
    cards = re.findall(r"<article.*?</article>", text, re.DOTALL)
    assert len(cards) == 16  # blind loses 12, and the other cut repairs the 4 wrong ones
    assert max(len(card.encode()) for card in cards) <= 12_000
    first = next(card for card in cards if ", document 0<" in card)
    assert 'data-flips="lost 1,lost 2"' in first
    assert re.search(
        r"none \(full attention\)</th><td>A ✓</td><td></td><td class=\"number\">90.0</td>", first
    )
    assert "p(B) %" in first
    write_log(tmp_path, "none", [True] * 3)
    write_log(tmp_path, "blind", [True] * 3, "t2", base="t")
    out = str(tmp_path / "r.html")
    assert main(["report", str(tmp_path), "--output", out, "--question", "1", "--question", "t/2"]) == 0
    assert Path(out).read_text().count("<article") == 2


def test_a_question_that_is_not_there_is_one_line(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(run), "--question", "nobody"]) == 2
    err = capsys.readouterr().err
    assert "--question nobody: no question of these runs has this id" in err
    assert err.count("\n") == 1
    assert main(["report", str(run), "--output", "page.pdf"]) == 2
    assert "write a name that ends in .html" in capsys.readouterr().err


# Nothing foreign becomes code


def test_hostile_names_answers_and_words_stay_text(tmp_path: Path) -> None:
    results = write_run(
        tmp_path, answer="A", id=HOSTILE, category=HOSTILE, checkpoint=HOSTILE, protocol="paper"
    )
    write_log(
        results,
        "none",
        [True, False],
        "x_y",
        answer=HOSTILE,
        reason=HOSTILE,
        flow_name=HOSTILE,
        engine=HOSTILE,
    )
    write_traced(
        tmp_path, [True], "tvbench_flow_other", words=(HOSTILE, "</svg><script>"), checkpoint=HOSTILE
    )
    line = {"input": HOSTILE, "target": HOSTILE}
    write_log(results, "blind", [False, False], "x_z", base="x_y", line=line, engine=HOSTILE)
    out = tmp_path / "r.html"
    report([results], out, replace(ALONE, allow_differences=True))
    text = out.read_text()
    page = Page(text)
    assert page.open == []
    assert page.tags.count("script") == 1
    assert not page.handlers
    assert "{{ 7 * 7 }}" in "".join(page.words)
    assert all(source.startswith(("data:image/", "#")) for source in page.loads)
    assert "<!--" not in text.removeprefix("<!doctype html>")
    digest = re.search(r"script-src 'sha256-([^']+)'", text)
    assert digest is not None


# For notebooks


def test_samples_are_a_tidy_table(run: Path) -> None:
    frame = samples_df(run)
    assert len(frame) == 3 * 16
    assert frame.groupby("flow").correct.mean().to_dict() == pytest.approx(
        {"none": 0.75, "blind": 0.0, "cross_frame@1-6": 11 / 16}
    )
    assert frame[frame.flow == "blind"].flip.value_counts().to_dict() == {"lost": 12, "": 4}
    assert frame[frame.flow == "blind"].p_A.iloc[0] == pytest.approx(0.3)
    assert not frame.duplicated(["arm", "task", "doc_id"]).any()
    written = list(csv.DictReader((run / "report" / "samples.csv").open()))
    assert len(written) == len(frame)
    assert list(written[0]) == list(frame.columns)


def test_what_failed_is_neither_right_nor_wrong(tmp_path: Path) -> None:
    write_log(tmp_path, "none", [True, None, False])
    frame = samples_df(str(tmp_path))
    assert frame.correct.isna().tolist() == [False, True, False]
    assert frame.correct.mean() == 0.5
    assert main(["report", str(tmp_path), "--no-frames"]) == 1
    assert main(["report", str(tmp_path), "--no-frames", "--allow-errors"]) == 0
