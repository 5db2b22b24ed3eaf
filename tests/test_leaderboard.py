"""`lmms-flow compare`: what it prints and writes, what it refuses, and how it ends."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lmms_flow.cli import main
from lmms_flow.errors import ReportError
from lmms_flow.report.board import Settings, make_boards
from lmms_flow.report.board_tables import all_tables
from lmms_flow.report.runs import read_arms
from lmms_flow.report.table import Column, Table, flops, one_line, p_value
from tests.support.lmms_logs import write_log

COUNT, ACTION = "tvbench_flow_object_count", "tvbench_flow_action_antonym"


def write_arm(
    folder: Path, flow: str, counted: Sequence[bool | None], acted: Sequence[bool | None], **fields: Any
) -> None:
    """An arm of two sub-tasks as tasks of its own, or the baseline."""
    for base, correct in ((COUNT, counted), (ACTION, acted)):
        task = base if flow == "none" else base.replace("flow_", f"flow_{flow}_")
        write_log(folder, flow, correct, task, base=base, **fields)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Full attention, its sham, and an arm that loses 5 of 20 (one of them answered otherwise, wrong to wrong)."""
    folder = tmp_path / "out"
    write_arm(folder, "none", [True] * 8 + [False] * 2, [True] * 10)
    write_arm(folder, "sham", [True] * 8 + [False] * 2, [True] * 10)
    write_arm(folder, "cross_frame", [False] * 5 + [True] * 4 + [False], [True] * 9 + [False])
    return folder


def tables(folder: Path, **settings: Any) -> dict[str, list[dict[str, str]]]:
    """The tables as they are printed: by name, a dictionary a row."""
    (board,) = make_boards(read_arms([folder]), Settings(**settings))
    return {
        table.name: [dict(zip((c.head for c in table.columns), row, strict=True)) for row in table.texts()]
        for table in all_tables(board)
    }


@pytest.mark.smoke
def test_the_leaderboard_has_micro_and_macro_means_and_both_differences(out: Path) -> None:
    full, sham, cut = tables(out)["leaderboard"]
    assert full["arm"] == "none (full attention)"
    assert (full["n"], full["accuracy [95 %]"]) == ("20", "90.0 [69.9, 97.2]")
    assert (full["Δ baseline [95 %]"], full["Δ of its right"]) == ("", "")
    assert (sham["Δ baseline [95 %]"], sham["Δ of its right"]) == ("+0.0 [+0.0, +0.0]", "+0.0")
    assert cut["Δ baseline [95 %]"].startswith("-25.0 [-")  # 6 of 18 lost, 1 of 2 won
    assert (cut["Δ of its right"], cut["p (McNemar)"], cut["within ±2"]) == ("-33.3", "0.125", "not shown")
    assert cut["macro [95 %]"].startswith("65.0 [")
    assert (cut["edges kept"], cut["seconds + video"]) == ("25.0 %", "10.0")
    assert (cut["errors"], cut["skipped"]) == ("0", "0")
    assert "prefill FLOPs" not in cut  # nobody counted them


def test_macro_and_micro_differ_where_sub_tasks_differ_in_size(tmp_path: Path) -> None:
    write_arm(tmp_path, "none", [True] * 10, [False] * 2)
    (row,) = tables(tmp_path)["leaderboard"]
    assert row["accuracy [95 %]"].startswith("83.3 [")
    assert row["macro [95 %]"].startswith("50.0 [")


def test_accuracies_by_task_have_wilsons_intervals(out: Path) -> None:
    cut = tables(out)["tasks"][2]
    assert cut["object count"] == "40.0 [16.8, 68.7]"
    assert cut["action antonym"] == "90.0 [59.6, 98.2]"


def test_paired_tests_stand_beside_the_shams_flips(out: Path) -> None:
    sham, cut = tables(out, margin=0.1)["tests"]
    assert (sham["flips"], sham["p (McNemar)"], sham["Δ [95 %]"]) == ("0", "1.000", "+0.0 [+0.0, +0.0]")
    assert (cut["common"], cut["lost"], cut["won"], cut["flips"], cut["sham's flips"]) == (
        "20",
        "6",
        "1",
        "7",
        "0",
    )
    assert cut["baseline"] == "none (full attention)"
    assert cut["p (McNemar)"] == "0.125"  # 2 * (1 + 7) / 2^7
    assert cut["within ±10 (p)"].startswith("not shown (")


def test_tests_by_task_are_adjusted_over_the_tasks_of_an_arm(out: Path) -> None:
    rows = [row for row in tables(out)["tests-by-task"] if row["arm"] == "cross_frame"]
    by_task = {row["task"]: row for row in rows}
    assert by_task["object count"]["p (McNemar)"] == "0.219"  # 2 * (1 + 6) / 2^6
    assert by_task["object count"]["p (Holm)"] == "0.438"
    assert by_task["action antonym"]["p (Holm)"] == "1.000"
    assert by_task["object count"]["Δ of its right"] == "-62.5"  # 5 of 8


def test_flips_say_which_question_and_how(tmp_path: Path) -> None:
    write_log(tmp_path / "a", "none", [True, False, False, False, True])
    write_log(tmp_path / "b", "blind", [False, True, False, False, None], answer="C")
    rows = tables(tmp_path)["flips"]
    assert [(row["document"], row["flip"]) for row in rows] == [
        ("0", "lost"),
        ("1", "won"),
        ("2", "other"),
        ("3", "other"),
    ]
    assert (rows[2]["baseline's answer"], rows[2]["answer"], rows[2]["right answer"]) == ("B", "C", "A")


def test_categories_within_a_task_are_sub_tasks(tmp_path: Path) -> None:
    """Half of each category's questions, in one task."""
    file = write_log(tmp_path, "none", [True, True, False, False], "videomme_flow")
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    for row, kind in zip(rows, ("OCR", "Counting", "OCR", "Counting"), strict=True):
        row["record"]["category"] = kind
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (row,) = tables(tmp_path)["tasks"]
    assert row["OCR"].startswith("50.0 [")
    assert row["Counting"].startswith("50.0 [")


def test_benchmarks_are_never_averaged_with_one_another(tmp_path: Path) -> None:
    write_log(tmp_path, "none", [True] * 4, "tomato_flow")
    write_log(tmp_path, "none", [False] * 4, "tvbench_flow_object_count")
    boards = make_boards(read_arms([tmp_path]), Settings())
    assert [(board.benchmark, board.entries[0].accuracy.right) for board in boards] == [
        ("tomato", 4),
        ("tvbench", 0),
    ]


def test_several_models_have_a_column_and_baselines_of_their_own(tmp_path: Path) -> None:
    for model, right in (("org/small", [True] * 4), ("org/large", [True] * 2 + [False] * 2)):
        write_log(tmp_path / model, "none", [True] * 4, checkpoint=model)
        write_log(tmp_path / f"{model}-cut", "blind", right, checkpoint=model)
    rows = tables(tmp_path)["leaderboard"]
    assert [(row["model"], row["Δ baseline [95 %]"].partition(" ")[0]) for row in rows] == [
        ("org/large", ""),
        ("org/large", "-50.0"),
        ("org/small", ""),
        ("org/small", "+0.0"),
    ]


# What is refused


def test_arms_that_were_asked_otherwise_are_refused_until_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_log(tmp_path / "a", "none", [True, True])
    write_log(tmp_path / "b", "blind", [True, True], prompt_digest="another prompt")
    assert main(["compare", str(tmp_path)]) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert (
        "t, document 0: 'blind (no video)' and 'none (full attention)' differ in their prompts"
        in captured.err
    )
    assert main(["compare", str(tmp_path), "--allow-differences"]) == 0
    assert "differ in their prompts in 2 questions" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ({"prompt_digest": "x"}, "prompts"),
        ({"line": {"input": "another question"}}, "prompts"),
        ({"line": {"target": "B"}}, "data"),
        ({"data_digest": "x"}, "data"),
        ({"frames": [0, 2, 4, 6, 8, 10, 12, 14]}, "frames"),
        ({"data_digest": "x", "checkpoint": "other", "flow": "none"}, "data"),
        ({"prompt_digest": "x", "checkpoint": "other", "flow": "none"}, None),  # every family has its own
        ({"prompt_digest": "x", "frames": [4], "num_frames": 1, "flow": "none"}, None),  # a single frame
        ({"prompt_digest": ""}, None),  # an old log
    ],
)
def test_what_must_agree(tmp_path: Path, fields: dict[str, Any], what: str | None) -> None:
    write_log(tmp_path / "a", "none", [True, True])
    write_log(tmp_path / "b", **{"flow": "blind", "correct": [True, True], **fields})
    arms = read_arms([tmp_path])
    if what is None:
        (board,) = make_boards(arms, Settings())
        assert not any("differ" in note for note in board.notes)
    else:
        with pytest.raises(ReportError, match=f"differ in their {what}"):
            make_boards(arms, Settings())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--margin", "2"], "--margin 2.0: write a share between 0 and 1, such as 0.02"),
        (["--margin", "nan"], "--margin nan: write a share"),
        (["--seed", "-1"], "--seed -1: write a whole number"),
        (
            ["--output", "report.docx"],
            "--output report.docx: write a name that ends in .html or .csv or .md or .tex",
        ),
        (["--figure", "f.doc"], "--figure f.doc: write a name that ends in .png or .svg or .pdf"),
        (["--records", "gone"], None),
    ],
)
def test_a_wrong_argument_is_one_line(
    out: Path, arguments: list[str], message: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    status = main(["compare", str(out), *arguments])
    err = capsys.readouterr().err
    if message is None:  # no stock task needs them
        assert (status, err) == (0, "")
    else:
        assert status == 2
        assert message in err
        assert err.count("\n") == 1


# How it ends


def test_one_truncated_video_among_100_is_reported_and_not_scored(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_log(tmp_path, "none", [True] * 60 + [None] + [False] * 39)
    assert main(["compare", str(tmp_path)]) == 1
    captured = capsys.readouterr()
    row = next(line for line in captured.out.splitlines() if line.startswith("none"))
    assert re.split("  +", row)[:3] == [
        "none (full attention)",
        "99",
        "60.6 [50.8, 69.7]",
    ]
    listed = next(line for line in captured.out.splitlines() if "cut short" in line)
    assert re.split("  +", listed.strip())[1:] == [
        "t",
        "60",
        "error",
        "the video is cut short",
    ]
    assert "1 samples failed; --allow-errors" in captured.err
    assert main(["compare", str(tmp_path), "--allow-errors"]) == 0


def test_skipped_samples_are_counted_apart_and_no_failure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_log(tmp_path / "a", "none", [True, False])
    write_log(
        tmp_path / "b", "effective", [None, None], status="skipped", reason="no known pathway", flow_digest=""
    )
    assert main(["compare", str(tmp_path)]) == 0
    assert "skipped: no known pathway" in capsys.readouterr().out
    row = tables(tmp_path)["leaderboard"][1]
    assert (row["n"], row["errors"], row["skipped"]) == ("0", "0", "2")


def test_a_name_is_printed_and_drawn_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Neither rich's markup, nor its emoji, nor matplotlib's formulas, nor HTML."""
    for number, name in enumerate(("late cut [v2]", "[/x]", ":fire: $\\frac$ $x", "<b>&amp;")):
        write_log(tmp_path / str(number), name, [True], checkpoint=f"[bold]{number} $a_$", task="t$^$")
    page = tmp_path / "page.html"
    assert main(["compare", str(tmp_path), "--figure", f"{tmp_path}/f.png", "--output", str(page)]) == 0
    out = capsys.readouterr().out
    for name in ("late cut [v2]", "[/x]", ":fire: $\\frac$ $x", "[bold]0 $a_$", "<b>&amp;"):
        assert name in out
    assert "&lt;b&gt;&amp;amp;" in page.read_text()
    assert (tmp_path / "f.png").read_bytes().startswith(b"\x89PNG")


def test_an_answer_can_hold_anything(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Line breaks, signs that a terminal obeys, half a surrogate pair, a formula's sign."""
    write_log(tmp_path / "a", "none", [True])
    write_log(tmp_path / "b", "blind", [False], answer="\x1b[31m|\n\ud83d & $x_1$ </td><script>")
    files = [tmp_path / f"r{ending}" for ending in (".html", ".md", ".tex", ".csv")]
    assert main(["compare", str(tmp_path), "--flips", *(f"--output={file}" for file in files)]) == 0
    assert "\x1b" not in capsys.readouterr().out
    assert files[0].read_text().count("<script>") == 1  # our own
    assert r"\| ? & \$x\_1\$" in files[1].read_text()
    assert r"\& \$x\_1\$" in files[2].read_text()
    (row,) = csv.DictReader((tmp_path / "r-flips.csv").open(newline=""))
    assert row["answer"] == "\x1b[31m|\n? & $x_1$ </td><script>"


# What it writes


def test_csv_holds_numbers_as_they_are(out: Path, tmp_path: Path) -> None:
    assert main(["compare", str(out), "--output", f"{tmp_path}/r.csv"]) == 0
    rows = list(csv.DictReader((tmp_path / "r.csv").open()))
    assert [row["flow"] for row in rows] == ["none", "sham", "cross_frame"]
    assert float(rows[2]["accuracy"]) == 0.65
    assert float(rows[2]["difference"]) == -0.25
    assert rows[0]["difference"] == ""
    assert (rows[2]["benchmark"], rows[2]["model"], rows[2]["frames"]) == ("tvbench", "tiny", "8")
    names = sorted(path.name for path in tmp_path.glob("r*.csv"))
    assert names == ["r-flips.csv", "r-tasks.csv", "r-tests-by-task.csv", "r-tests.csv", "r.csv"]


def test_markdown_is_a_table_of_equal_rows(out: Path, tmp_path: Path) -> None:
    assert main(["compare", str(out), "--output", f"{tmp_path}/r.md"]) == 0
    text = (tmp_path / "r.md").read_text()
    assert text.startswith("### tvbench, tiny: accuracy by arm (%)\n\n| arm | n |")
    assert r"| cross\_frame | 20 | 65.0 \[43.3, 81.9\] |" in text
    for table in text.split("### ")[1:]:
        rows = [line for line in table.splitlines() if line.startswith("|")]
        assert len({len(re.findall(r"(?<!\\)\|", row)) for row in rows}) == 1


def test_latex_escapes_and_has_a_cell_a_column(out: Path, tmp_path: Path) -> None:
    assert main(["compare", str(out), "--output", f"{tmp_path}/r.tex"]) == 0
    text = (tmp_path / "r.tex").read_text()
    assert r"cross\_frame & 20 & 65.0 [43.3, 81.9]" in text
    assert r"$-$25.0" in text
    assert text.isascii()
    for table in text.split(r"\begin{tabular}")[1:]:
        columns = re.match(r"\{([lr]+)\}", table)
        assert columns is not None
        rows = [line for line in table.splitlines() if line.endswith(r"\\")]
        assert {len(re.findall(r"(?<!\\)&", row)) + 1 for row in rows} == {len(columns[1])}


def test_the_same_files_come_out_each_time(out: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        assert main(["compare", str(out), "--output", f"{tmp_path}/{name}.html"]) == 0
    assert (tmp_path / "a.html").read_text() == (tmp_path / "b.html").read_text()


def test_a_figure_a_benchmark(tmp_path: Path) -> None:
    write_log(tmp_path, "none", [True] * 4, "tomato_flow")
    write_log(tmp_path, "none", [False] * 4, "tvbench_flow_object_count")
    assert main(["compare", str(tmp_path), "--figure", f"{tmp_path}/f.svg"]) == 0
    assert sorted(path.name for path in tmp_path.glob("*.svg")) == ["f-tomato.svg", "f-tvbench.svg"]


def test_wide_tables_are_split_and_keep_their_first_column() -> None:
    columns = tuple(Column(str(number)) for number in range(8))
    table = Table("tasks", "title", columns, ((*range(8),),), notes=("note",))
    parts = list(table.split(4))
    assert [[column.head for column in part.columns] for part in parts] == [
        list("0123"),
        list("0456"),
        list("07"),
    ]
    assert [part.notes for part in parts] == [(), (), ("note",)]
    assert list(table.split(8)) == [table]


def test_numbers_are_printed_in_one_form() -> None:
    assert flops((10.64e12, 0.632)) == "10.6 T (63.2 %)"
    assert (p_value(0.00042), p_value(0.0421)) == ("4.2e-04", "0.042")
    assert one_line("a\n b\x07" + "c" * 100, 10) == "a b cccccc…"[:9] + "…"


@pytest.mark.host  # as long as the slow tests are
def test_thirteen_arms_of_4000_questions_make_a_page_under_3_mb(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for number in range(13):
        flow = "none" if number == 0 else f"random:0.5:seed{number}"
        for task in range(10):
            write_log(tmp_path / str(number), flow, (rng.random(400) < 0.6).tolist(), f"tvbench_flow_{task}")
    page = tmp_path / "r.html"
    assert main(["compare", str(tmp_path), "--output", str(page), "--output", f"{tmp_path}/r.csv"]) == 0
    assert page.stat().st_size < 3_000_000
