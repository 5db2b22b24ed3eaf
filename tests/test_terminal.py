"""What is printed fits the terminal; a pipe, a file and `--wide` have everything."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from lmms_flow.cli import main
from lmms_flow.terminal import TextColumn, TextTable
from tests.support.lmms_logs import write_log
from tests.support.terminal import in_terminal, widest

ARMS = ("none", "effective", "effective_closed", "random:effective:seed1", "mirrored:effective", "blind")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """The arms of a quickstart: five sub-tasks, FLOPs, one model."""
    for place, flow in enumerate(ARMS):
        for task in ("action_antonym", "object_count", "moving_direction", "scene_transition"):
            right = [True] * (20 - 3 * place) + [False] * (3 * place)
            name = f"flowbench_{task}" if flow == "none" else f"flowbench_flow_{place}_{task}"
            cost: dict[str, Any] = {"flops": 6_000_000, "flops_full": 8_000_000, "shared_milliseconds": 3.0}
            write_log(tmp_path / "out", flow, right, name, base=f"flowbench_{task}", **cost)
    return tmp_path / "out"


def rows(text: str, first: str) -> list[list[str]]:
    """The cells of the lines of the table whose head begins with `first`, up to the empty line."""
    lines = text[text.index(f"\n{first}") + 1 :].split("\n\n")[0].splitlines()
    return [re.split("  +", line.rstrip()) for line in lines if not line.startswith("─")]


@pytest.mark.parametrize("columns", [80, 100, 120, 160])
def test_a_leaderboard_has_a_line_an_arm_at_every_width(out: Path, columns: int) -> None:
    status, text = in_terminal(lambda: main(["compare", str(out)]), columns)
    assert status == 0
    assert widest(text) <= columns
    head, *body = rows(text, "arm ")
    assert head[0] == "arm"
    assert [row[0].split(" (")[0] for row in body if len(row) > 1] == list(ARMS)
    # Only the one long name of 80 columns is folded, behind its word.
    assert len(body) - len(ARMS) == (1 if columns == 80 else 0)


def test_at_80_columns_there_are_arm_n_accuracy_difference_p_and_edges(out: Path) -> None:
    _, text = in_terminal(lambda: main(["compare", str(out)]), 80)
    head, first, second, *_ = rows(text, "arm ")
    assert head == ["arm", "n", "accuracy", "Δ [95 %]", "p", "edges"]
    assert first == ["none (full attention)", "80", "100.0", "100.0 %"]
    assert second[:3] == ["effective", "80", "85.0"]
    assert re.fullmatch(r"-15\.0 \[-2\d\.\d, -\d\.\d\]", second[3])
    assert "no room here for:" in text.replace("\n", " ")
    assert "--wide prints them" in text.replace("\n  ", " ")


def test_wide_and_a_pipe_have_all_columns(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", str(out)]) == 0
    piped = capsys.readouterr().out
    _, wide = in_terminal(lambda: main(["compare", str(out), "--wide"]), 80)
    for text in (piped, wide):
        head = rows(text, "arm ")[0]
        assert {"accuracy [95 %]", "macro [95 %]", "prefill FLOPs", "seconds + video", "errors"} <= set(head)
        assert "no room" not in text
    assert [line.rstrip() for line in piped.splitlines()] == [line.rstrip() for line in wide.splitlines()]


def test_several_models_have_tables_of_their_own_where_there_is_no_room_for_a_column(tmp_path: Path) -> None:
    for model in ("byminji/LLaVA-NeXT-7B-Video-FT", "byminji/LLaVA-NeXT-13B-Video-FT"):
        write_log(tmp_path / model, "none", [True] * 4, checkpoint=model)
        write_log(tmp_path / f"{model}-cut", "blind", [False] * 4, checkpoint=model)
    _, text = in_terminal(lambda: main(["compare", str(tmp_path)]), 80)
    assert widest(text) <= 80
    assert text.count("blind (no video)") >= 2
    assert not re.search("^model", text, re.MULTILINE)
    _, text = in_terminal(lambda: main(["compare", str(tmp_path)]), 260)
    assert re.search("^model ", text, re.MULTILINE)


def test_a_long_list_is_cut_short_in_a_terminal_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_log(tmp_path, "none", [True] * 60)
    write_log(tmp_path / "b", "blind", [False] * 60)
    _, text = in_terminal(lambda: main(["compare", str(tmp_path), "--flips"]), 100)
    assert "and 20 more: --wide lists them all" in text
    main(["compare", str(tmp_path), "--flips"])
    assert "more: --wide" not in capsys.readouterr().out


@pytest.mark.parametrize("columns", [80, 120])
@pytest.mark.parametrize(
    "argv",
    [
        ["show", "effective-llava-next-7b"],
        ["show", "effective_closed", "--model", "flow-tiny"],
        ["flows"],
    ],
    ids=" ".join,
)
def test_other_tables_fit_as_well(argv: list[str], columns: int) -> None:
    status, text = in_terminal(lambda: main(argv), columns)
    assert status == 0
    assert widest(text) <= columns
    if argv == ["flows"]:
        listed = [line for line in text.splitlines() if line.startswith("effective-") and ": " not in line]
        assert len(listed) == 10, "a line a preset"
        closed = [line for line in listed if "-closed" in line and "flow-tiny" not in line]
        assert all("*" in line or "unvalidated" in line for line in closed)


def test_help_fits_80_columns() -> None:
    for command in ("show", "flows", "tasks", "doctor", "verify", "compare", "report", "discover"):
        status, text = in_terminal(lambda: main([command, "--help"]), 80)  # noqa: B023
        assert status == 0
        described = text.split("\n\n")[1]
        assert described[0].isupper(), f"{command} --help says first what the command does"


def test_columns_leave_then_are_brief_then_are_folded() -> None:
    table = TextTable(
        "t",
        (
            TextColumn("arm", ("a long name that can fold",)),
            TextColumn("accuracy [95 %]", ("100.0 [99.4, 100.0]",), True, 0, "acc", ("100.0",)),
            TextColumn("seconds", ("1234567",), True, 2),
            TextColumn("flops", ("12345",), True, 1),
        ),
    )
    heads = {
        width: [column.head for column in table.fitted(width)[0].columns]
        for width in (62, 61, 46, 45, 38, 20)
    }
    assert heads[62] == ["arm", "accuracy [95 %]", "seconds", "flops"]
    assert heads[61] == ["arm", "accuracy [95 %]", "flops"]
    assert heads[46] == ["arm", "accuracy [95 %]"]
    assert heads[45] == ["arm", "acc", "flops"]
    assert heads[38] == heads[20] == ["arm", "acc"]
    assert table.fitted(45)[1] == ("seconds",)


def test_a_note_leaves_with_the_last_column_that_it_explains() -> None:
    columns = tuple(
        TextColumn(head, ("1",), rank=rank)
        for rank, head in enumerate(("arm", "Δ [95 %]", "macro [95 %]", "shows from"))
    )
    notes = ("Δ: in points", "macro, shows from: both", "shows from: in points", "below: of no column")
    table = TextTable("title", columns, notes)
    assert table.fitted(100)[0].notes == notes
    kept, left = table.fitted(27)
    assert left == ("shows from",)
    assert kept.notes == (notes[0], notes[1], notes[3])
    assert table.fitted(13)[0].notes == (notes[0], notes[3])


def test_json_has_the_numbers_of_a_csv(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", str(out), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    board = next(table for table in found["tables"] if table["name"] == "leaderboard")
    assert [row["flow"] for row in board["rows"]] == list(ARMS)
    assert board["rows"][1]["accuracy"] == 0.85
    assert board["rows"][0]["difference"] is None
    assert found["failures"] == 0


def test_json_of_show_and_of_the_tasks(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "effective-llava-next-7b", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["edges_kept"], shown["edges_total"], shown["layers"]) == (11_082_511, 25_704_896, 32)
    assert shown["routes"][0] == "video -> gap (layer 1) -> last (layer 2)"
    assert [each["layers"] for each in shown["by_layer"]] == ["1-5", "6-15", "16-20", "21-25", "26-32"]
    assert shown["flops"] < shown["flops_full"]
    assert main(["tasks", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert {"name": "flowbench_flow_leaderboard", "group": True} in listed["tasks"]
    assert Path(listed["folder"]).is_dir()


ROOT = Path(__file__).parents[1]
RUN_HERE = ("compare", "flows", "show", "tasks")  # of the README's commands, those that need no model


def readme_commands() -> list[list[str]]:
    """The commands of the README that this test can run, each once; what stands for a user's own word is left out."""
    found = re.findall(
        r"(?:^ {4}|`)lmms-flow ([a-z]+[^`\n#]*)", (ROOT / "README.md").read_text(), re.MULTILINE
    )
    split = [shlex.split(text) for text in dict.fromkeys(each.strip() for each in found)]
    whole = [words for words in split if len(words) > 1 or words[0] in ("flows", "tasks")]  # not a bare name
    return [words for words in whole if words[0] in RUN_HERE and not any(word.isupper() for word in words)]


def test_the_readme_has_such_commands() -> None:
    assert {words[0] for words in readme_commands()} >= {"compare", "flows", "tasks"}


@pytest.mark.parametrize("words", readme_commands(), ids=" ".join)
def test_the_readmes_commands_fit_80_columns(
    words: list[str], out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(out.parent)
    status, text = in_terminal(lambda: main(words), 80)
    assert status == 0, text
    assert text.strip()
    tables = [line for line in text.splitlines() if not line.startswith("/")]  # a path is never broken
    assert widest("\n".join(tables)) <= 80
