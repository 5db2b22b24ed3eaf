"""`lmms-flow`: what it prints, and one line with status 2 for a user's mistake."""

from __future__ import annotations

from pathlib import Path

import pytest

from lmms_flow.cli import main

TASKS = {"flowbench", "flowbench_action_antonym", "flowbench_object_count"}


def run(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    status = main(argv)
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_show_says_what_is_cut_where_and_how_much_is_left(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, "show", "effective-llava-next-7b")
    assert status == 0
    assert "11,082,511 of 25,704,896 (43.1 %)" in out
    assert "video -> tail (layer 1) -> last (layer 2)" in out
    rows = [line.split("│")[1].strip() for line in out.splitlines() if line.startswith("│")]
    assert rows == ["1-5", "6-15", "16-20", "21-25", "26-32"]


def test_show_takes_depth_and_prompt_from_the_named_model(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(capsys, "show", "effective_closed", "--model", "DAMO-NLP-SG/VideoLLaMA3-7B")
    assert "28 layers, 1199 tokens" in out
    assert "no route past the flow" in out
    _, out, _ = run(capsys, "show", "video:last@second_half", "--model", "effective-llava-next-13b")
    assert "21-40" in out


def test_show_draws_a_picture(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    status, out, _ = run(capsys, "show", "random:0.2:seed1", "--png", str(tmp_path / "new" / "flow.png"))
    assert status == 0
    assert (tmp_path / "new" / "flow.png").read_bytes().startswith(b"\x89PNG")
    assert "drawn into" in out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("show", "video:qestion"), "did you mean 'question'"),
        (("show", "video:last@40"), "layer 40 does not exist, the model has layers 1-32"),
        (("show", "absent.yaml"), "absent.yaml: No such file"),
        (("show", "none", "--model", "effective-llava-nxt-7b"), "did you mean 'effective-llava-next-7b'"),
        (("show", "effective-llava-next-13b", "--model", "effective-llava-next-7b"), "is for 40 layers"),
        (("verify", "--model", "llava_vid_flw"), "did you mean 'llava_vid_flow'"),
        (("compare", "no-such-folder"), "no-such-folder: there is no such folder"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(
    argv: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    status, _, err = run(capsys, *argv)
    assert status == 2
    assert message in err
    assert err.count("\n") == 1
    assert err.startswith(f"lmms-flow {argv[0]}: ")


def test_a_picture_that_cannot_be_written_is_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    status, _, err = run(capsys, "show", "blind", "--png", str(tmp_path / "file" / "flow.png"))
    assert status == 2
    assert err.count("\n") == 1


def test_flows_mark_what_nobody_has_scored(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(capsys, "flows")
    rows = [line for line in out.splitlines() if line.startswith("│ effective-")]
    assert len(rows) == 8
    for row in rows:
        assert ("-closed" in row) == ("unvalidated" in row)


def test_tasks_prints_a_folder_that_lmms_eval_can_include(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(capsys, "tasks")
    assert (Path(out.strip()) / "flowbench" / "flowbench.yaml").is_file()
    _, out, _ = run(capsys, "tasks", "--list")
    assert set(out.split()) >= TASKS


@pytest.mark.parametrize("command", ["", "show", "flows", "tasks", "verify", "compare", "eval"])
def test_help_teaches(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        status = main([*([command] if command else []), "--help"])
    except SystemExit as stop:
        status = stop.code
    assert status == 0
    assert "usage: lmms-flow" in capsys.readouterr().out


def test_verify_shows_that_a_cut_reaches_the_model(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    from tests.checkpoints import paper_llava

    paper_llava(tmp_path, layers=2)
    status, out, _ = run(capsys, "verify", "--model_args", f"pretrained={tmp_path}")
    assert status == 0
    assert out.count("│ yes") == 8
    status, _, err = run(capsys, "verify", "--model_args", "pretraned=x")
    assert status == 1
    assert "did you mean 'pretrained'" in err
