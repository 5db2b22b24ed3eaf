"""What a hand slips into: each gets one line of ours that says what to write."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lmms_flow import __version__
from lmms_flow.cli import main
from lmms_flow.errors import FlowError, RunError
from lmms_flow.flow import Flow, preset_of
from lmms_flow.runner.arguments import joined


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("VIDEO:LAST", "video:last"),
        ("Effective", "effective"),
        ("effective-closed", "effective_closed"),
        ("effective_llava_next_7b", "effective-llava-next-7b"),
        ("video–last", "video:last"),
        ("video—last", "video:last"),
        ("video->last", "video:last"),
        ("video => last", "video:last"),
        ("question→last@16-25", "question:last@16-25"),
        ("Video -/-> Last", "video:last"),
        ("Cross-Frame", "cross_frame"),
        ("cross-frame@first half", "cross_frame@first_half"),
        ("video:last@6–20", "video:last@6-20"),
        ("video:last@6:20", "video:last@6-20"),
        ("video:last[6-20]", "video:last@6-20"),
        ("video:question,video:last", "video:question+video:last"),
        ("video:question; video:last", "video:question+video:last"),
        ("video:question + video:last", "video:question+video:last"),
        ("'video:last'", "video:last"),
        ("Non-option question -/-> Last", "stem:last"),
    ],
)
def test_a_flow_that_is_written_otherwise_is_told_as_it_is_written_here(written: str, meant: str) -> None:
    with pytest.raises(FlowError) as caught:
        Flow.load(written, checkpoint="byminji/LLaVA-NeXT-7B-Video-FT")
    assert str(caught.value) == f"flow {written!r} is not spelt as flows are: write {meant}"


@pytest.mark.parametrize(
    ("flow", "says"),
    [
        ("mirrored:none", "'none' is a control, which stands alone (write mirrored:effective)"),
        ("mirrored:blind", "'blind' is a control, which stands alone"),
        ("mirrored:effectve", "did you mean 'effective'"),
        ("random:sham", "'sham' is a control, which stands alone"),
        ("single_frame", "run the task that ends in _single_frame, or num_frames=1"),
        ("video:qestion", "did you mean 'question'"),
        ("VIDEO:QESTION", "did you mean 'video'"),
        ("blind+video:last", "must stand alone"),
    ],
)
def test_a_flow_that_means_nothing_says_what_to_write(flow: str, says: str) -> None:
    with pytest.raises(FlowError) as caught:
        Flow.load(flow)
    assert says in str(caught.value)


def test_a_rule_in_a_file_is_respelt_as_well(tmp_path: Path) -> None:
    (tmp_path / "f.yaml").write_text('cut: ["Video -> Last@6–20"]')
    with pytest.raises(FlowError, match=r"rule 'Video -> Last@6–20' is not spelt .* write video:last@6-20"):
        Flow.load(tmp_path / "f.yaml")


@pytest.mark.parametrize(
    ("model_args", "says"),
    [
        (
            "pretrained=flow-tiny,flow=a:b,c:d",
            "rules of a flow are joined by '+', not by ',': write flow=a:b+c:d",
        ),
        ("flow=video:last,cross_frame,engine=dense", "write flow=video:last+cross_frame"),
        ("pretrained:flow-tiny", "write pretrained=flow-tiny"),
        ("pretrained=flow-tiny,dense", "write engine=dense"),
        ("pretrained=flow-tiny,fast", "'fast' has no name: write name=value"),
        ("pretrained=flow-tiny,batch_size=2,batch_size=4", "says batch_size 2 times"),
    ],
)
def test_model_args_without_a_name(model_args: str, says: str) -> None:
    with pytest.raises(RunError) as caught:
        joined(model_args, {})
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_batch_size_among_the_model_args_is_taken() -> None:
    """lmms-eval hands its own default of 1 on beside it, as a number or, from `-b`, as text."""
    assert joined("pretrained=flow-tiny, batch_size=2", {"batch_size": 1})["batch_size"] == 2
    with pytest.raises(RunError, match="leave out one"):
        joined("batch_size=2", {"batch_size": "4"})


@pytest.mark.parametrize(
    "checkpoint",
    [
        "/home/me/.cache/huggingface/hub/models--byminji--LLaVA-NeXT-7B-Video-FT/snapshots/0123abc",
        "~/hub/models--byminji--LLaVA-NeXT-7B-Video-FT/snapshots/0123abc/",
        "models--byminji--LLaVA-NeXT-7B-Video-FT",
        "/data/llava-next-7b-video-ft",
    ],
)
def test_effective_is_known_for_every_place_of_a_checkpoint(checkpoint: str) -> None:
    found = preset_of(checkpoint)
    assert found is not None
    assert found.name == "effective-llava-next-7b"


def test_effective_is_known_behind_a_link(tmp_path: Path) -> None:
    snapshot = tmp_path / "models--byminji--LLaVA-NeXT-7B-Video-FT" / "snapshots" / "0123abc"
    snapshot.mkdir(parents=True)
    (tmp_path / "mine").symlink_to(snapshot)
    found = preset_of(str(tmp_path / "mine"))
    assert found is not None
    assert found.name == "effective-llava-next-7b"
    assert preset_of(str(tmp_path / "other")) is None


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["shw", "none"], "lmms-flow: there is no 'shw'; did you mean 'show'?"),
        (["compair", "out"], "did you mean 'compare'?"),
        (
            ["compare", "out", "--by-tsk"],
            "lmms-flow compare: there is no argument '--by-tsk'; did you mean '--by-task'?",
        ),
        (["show", "none", "--modle", "7"], "did you mean '--model'?"),
        ([], "lmms-flow: the following arguments are required: COMMAND"),
    ],
)
def test_a_misspelt_command_or_argument(
    argv: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(argv)
    err = capsys.readouterr().err
    assert stop.value.code == 2
    assert says in err
    assert err.count("\n") == 1


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out == f"lmms-flow {__version__}\n"


CODE = """\
import sys
from lmms_flow.cli import main
for argv in (["show", "vdeo:last"], ["tasks"], ["flows"], ["compare", "no-such-folder"]):
    main(argv)
heavy = {"torch", "transformers", "lmms_eval"} & set(sys.modules)
sys.exit(f"imported: {heavy}" if heavy else 0)
"""


def test_a_typo_does_not_wait_for_torch() -> None:
    done = subprocess.run(
        [sys.executable, "-c", CODE], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr


def test_python_m_and_a_reader_that_has_read_enough() -> None:
    """`python -m lmms_flow tasks --list | head -1` ends as any program that a pipe ends."""
    command = [sys.executable, "-m", "lmms_flow", "tasks", "--list"]
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as pipe:
        done = subprocess.run(
            command, stdout=pipe, stderr=subprocess.PIPE, text=True, check=False, timeout=120
        )
    assert (done.returncode, done.stderr) == (141, "")
