"""`lmms-flow`: what it prints, and one line with status 2 for a user's mistake."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from lmms_flow.cli import main
from lmms_flow.flow import preset_of

TASKS = {"flowbench", "flowbench_action_antonym", "flowbench_object_count"}

FLOW_TINY = preset_of("flow-tiny")
assert FLOW_TINY is not None
FLOW_TINY_PROMPT = FLOW_TINY.prompt


def run(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    status = main(argv)
    captured = capsys.readouterr()
    return status, captured.out, captured.err


@pytest.mark.smoke
def test_show_says_what_is_cut_where_and_how_much_is_left(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, "show", "effective-llava-next-7b")
    assert status == 0
    assert "11,082,511 of 25,704,896 (43.1 %)" in out
    assert "video -> tail (layer 1) -> last (layer 2)" in out
    rows = [line.split()[0] for line in out.splitlines() if "last:last" in line]
    assert rows == ["1-5", "6-15", "16-20", "21-25", "26-32"]


def test_show_takes_depth_and_prompt_from_the_named_model(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(capsys, "show", "effective_closed", "--model", "DAMO-NLP-SG/VideoLLaMA3-7B")
    assert "28 layers, 1199 tokens" in out
    assert "no route past the flow" in out
    _, out, _ = run(capsys, "show", "video:last@second_half", "--model", "effective-llava-next-13b")
    assert "21-40" in out


@pytest.mark.parametrize(
    ("model", "says"),
    [("flow-tiny", "12 layers, 193 tokens"), ("24", "24 layers, 1267 tokens")],
)
def test_show_for_the_bundled_model_and_for_any_depth(
    model: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, _ = run(capsys, "show", "video:question@second_half", "--model", model)
    assert status == 0
    assert says in out


def test_flow_tinys_prompt_is_the_median_one_of_flowbench() -> None:
    """Group by group, as the harness finds them in the questions' prompts."""
    from transformers import AutoTokenizer

    from lmms_flow.assets import flow_tiny_dir, flowbench_dir
    from lmms_flow.flow import Flow
    from lmms_flow.inputs.groups import EncodedPrompt, find_groups
    from lmms_flow.tasks.flowbench.rows import FAMILIES, _read
    from lmms_flow.tasks.questions import doc_to_messages, doc_to_text

    tokenizer = AutoTokenizer.from_pretrained(flow_tiny_dir())
    placeholder = tokenizer.convert_tokens_to_ids("<video>")
    rest, questions = set(), []
    for family in FAMILIES:
        for line in (flowbench_dir() / f"{family}.jsonl").read_text().splitlines():
            doc = _read(json.loads(line))
            text = tokenizer.apply_chat_template(
                doc_to_messages(doc), tokenize=False, continue_final_message=True
            )
            out = tokenizer(text, return_offsets_mapping=True)
            at = out["input_ids"].index(placeholder)
            prompt = EncodedPrompt(
                text, tuple(out["input_ids"]), tuple(out["offset_mapping"]), range(at, at + 1), ()
            )
            layout = find_groups(prompt, doc_to_text(doc), doc, Flow.load("blind")).layout
            rest.add(tuple(layout.size(name) for name in ("system", "gap", "tail")))
            questions.append(layout.size("question"))
    assert rest == {tuple(FLOW_TINY_PROMPT[name] for name in ("system", "gap", "tail"))}
    assert sorted(questions)[len(questions) // 2] == FLOW_TINY_PROMPT["question"]


def test_show_takes_the_depth_that_a_file_names(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("late.yaml").write_text('{name: "late [v2] [/x]", layers: 12, cut: ["video:last@second_half"]}')
    status, out, _ = run(capsys, "show", "late.yaml", "--png", "late.png")
    assert status == 0
    assert out.startswith("late [v2] [/x]  (digest ")
    assert "12 layers, 1267 tokens" in out
    Path("like.yaml").write_text("{random: {preset: effective-llava-next-13b, seed: 1}}")
    assert "40 layers" in run(capsys, "show", "like.yaml")[1]
    status, _, err = run(capsys, "show", "late.yaml", "--model", "24")
    assert status == 2
    assert "is for 12 layers, the model has 24" in err


@pytest.mark.parametrize(
    ("flow", "label"),
    [("none", "nothing is cut"), ("sham", "nothing is cut"), ("random:0.2:seed1", "random draws")],
)
def test_a_picture_says_what_is_cut(
    flow: str, label: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lmms_flow.flow import Flow
    from lmms_flow.flow.layout import prompt_layout
    from lmms_flow.show import drawing

    strips = []
    draw = drawing.layer_strip
    monkeypatch.setattr(drawing, "layer_strip", lambda axes, bound: (draw(axes, bound), strips.append(axes)))
    layout = prompt_layout(**FLOW_TINY_PROMPT)
    drawing.draw_flow(Flow.load(flow), layout, 2, tmp_path / "flow.png")
    (axes,) = strips
    assert [text.get_text() for text in axes.get_yticklabels()] == [label]


def test_a_picture_takes_dollar_signs_as_they_are(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("f.yaml").write_text("{name: '$\\frac$', layers: 2, cut: ['video:last']}")
    assert run(capsys, "show", "f.yaml", "--png", "f.png")[0] == 0


def test_an_error_of_the_system_without_a_file_has_no_empty_part(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(args: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("lmms_flow.commands.tasks.run", full)
    assert run(capsys, "tasks") == (2, "", "lmms-flow tasks: No space left on device\n")


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
        (
            ("show", "none", "--model", "0"),
            "a checkpoint of one nor a number of layers such as 24",
        ),
        (("show", "effective", "--model", "24"), "no pathway is known"),
        (
            ("show", "effective-llava-next-7b", "--model", "flow-tiny"),
            "this checkpoint's is effective-flow-tiny",
        ),
        (("show", "effective-llava-next-13b", "--model", "effective-llava-next-7b"), "this checkpoint's is"),
        (("show", "effective-llava-next-13b", "--model", "32"), "is for 40 layers"),
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


@pytest.mark.smoke
def test_flows_mark_what_nobody_has_scored(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(capsys, "flows")
    rows = [line for line in out.splitlines() if line.startswith("effective-") and ": " not in line]
    assert len(rows) == 10
    for row in rows:
        ours = "effective-flow-tiny" in row
        assert ours == ("this package" in row)
        assert ("-closed" in row and not ours) == ("unvalidated" in row)


def test_tasks_prints_a_folder_that_lmms_eval_can_include(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(capsys, "tasks")
    assert (Path(out.strip()) / "flowbench" / "flowbench.yaml").is_file()
    _, out, _ = run(capsys, "tasks", "--list")
    assert set(out.split()) >= TASKS
    assert "tvbench_flow_effective_action_antonym" in out.split()


def test_the_list_of_tasks_is_what_lmms_eval_finds(capsys: pytest.CaptureFixture[str]) -> None:
    from lmms_eval.tasks import TaskManager

    from lmms_flow.harness import plugin

    plugin.make_tasks_known()
    _, out, _ = run(capsys, "tasks", "--list")
    found = TaskManager(include_defaults=False, model_name="llava_vid_flow")
    assert out.split() == found.all_tasks


@pytest.mark.parametrize("command", ["", "show", "flows", "tasks", "verify", "compare", "eval"])
def test_help_teaches(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    status: str | int | None
    try:
        status = main([*([command] if command else []), "--help"])
    except SystemExit as stop:
        status = stop.code
    assert status == 0
    assert "usage: lmms-flow" in capsys.readouterr().out


def test_verify_shows_that_a_cut_reaches_the_model(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    from tests.support.checkpoints import paper_llava

    paper_llava(tmp_path, layers=2)
    status, out, _ = run(capsys, "verify", "--model_args", f"pretrained={tmp_path}")
    assert status == 0
    assert (out.count("  yes  "), out.count("  NO  "), out.count("  not tried  ")) == (23, 0, 3)
    status, _, err = run(capsys, "verify", "--model_args", "pretraned=x")
    assert status == 1
    assert "did you mean 'pretrained'" in err
