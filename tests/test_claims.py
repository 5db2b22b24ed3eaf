"""The claims of papers: what they predict, the tasks that run them, and what a run says of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from lmms_eval.tasks import TaskManager

from lmms_flow.claims.book import Claim, ClaimArm, claim_arms, claims
from lmms_flow.cli import main
from lmms_flow.flow import Flow
from lmms_flow.harness import plugin
from lmms_flow.harness.arms import BENCHMARKS, claim_tasks
from lmms_flow.inputs.frame_order import FrameOrder
from lmms_flow.report import verdicts
from lmms_flow.report.arms import Arm, ScoredSample
from lmms_flow.report.board import Board, Settings, make_boards
from lmms_flow.report.clusters import Clustered
from lmms_flow.report.page.building import environment
from lmms_flow.report.page.claims_section import claims_section
from lmms_flow.report.verdicts import difference, trials, verdict, verdict_table
from tests.support.lmms_logs import write_log

PAPERS = ("Map the Flow", "An Empirical Study", "Causality Matters")


def test_a_dozen_claims_of_three_papers() -> None:
    found = claims()
    assert len(found) >= 12
    assert len({claim.name for claim in found}) == len(found)
    for paper in PAPERS:
        assert sum(claim.paper.startswith(paper) for claim in found) >= 3
    for claim in found:
        assert claim.says.endswith(".")
        assert claim.where
        assert "arXiv" in claim.source
        assert 0 < claim.size < 0.5
        for arm in claim.arms:
            Flow.load(arm.flow, checkpoint="flow-tiny").bind(12)
            assert not arm.frame_order or str(FrameOrder.parse(arm.frame_order)) == arm.frame_order


def test_each_benchmark_has_a_group_of_them() -> None:
    plugin.make_tasks_known()
    manager = TaskManager(model_name="llava_vid_flow")
    for prefix, base in BENCHMARKS.items():
        members = manager._get_config(f"{prefix}_claims")["task"]
        tasks = claim_tasks(prefix)
        assert members == [base, *(f"{prefix}_{arm.name}" for arm in tasks)]
        assert len(set(members)) == len(members) == 1 + len(claim_arms())
        assert set(members) <= set(manager.all_tasks)
        assert {(arm.flow, arm.frame_order or "") for arm in tasks} == {
            (arm.flow, arm.frame_order) for arm in claim_arms()
        }
    # An arm that the leaderboard has as well is one and the same task.
    assert "flowbench_flow_cross_frame_first_half" in manager._get_config("flowbench_flow_claims")["task"]
    loaded = manager.load_task_or_group(["flowbench_flow_cut_frame_last_text_object_count"], "chat")
    (task,) = loaded.values()
    assert task.config.metadata["flow"] == "frame.last:text"


def claim(size: float = 0.02, *, is_drop: bool = True, beyond: ClaimArm | None = None) -> Claim:
    return Claim(
        "c", "Paper: title", "arXiv", "It is so.", "Table 1", ClaimArm("blind"), size, is_drop, beyond
    )


def change(mean: float, error: float, questions: int = 1001) -> Clustered:
    """Changes of this mean whose interval is this wide on either side."""
    found = Clustered(np.full(questions, mean), np.arange(questions))
    object.__setattr__(found, "error", error / 1.9623)
    return found


@pytest.mark.parametrize(
    ("is_drop", "mean", "error", "expected"),
    [
        (True, -0.10, 0.05, "holds"),
        (True, -0.10, 0.09, "not enough questions"),  # from 1 to 19 points lost
        (True, 0.00, 0.01, "fails"),
        (True, 0.10, 0.05, "fails"),  # it wins
        (True, 0.00, 0.03, "not enough questions"),
        (False, 0.00, 0.01, "holds"),
        (False, 0.01, 0.005, "holds"),
        (False, 0.00, 0.03, "not enough questions"),
        (False, -0.10, 0.05, "fails"),
        (False, 0.10, 0.05, "fails"),
        (False, -0.025, 0.01, "not enough questions"),
    ],
)
def test_a_verdict_is_the_interval_s(is_drop: bool, mean: float, error: float, expected: str) -> None:
    assert verdict(claim(is_drop=is_drop), change(mean, error)) == expected


def test_a_single_clip_is_no_verdict() -> None:
    assert verdict(claim(), Clustered.of([-1.0] * 20, ["clip"] * 20)) == "not enough questions"


def arm(
    flow: str, right: list[bool], frame_order: str = "", clips: int = 0, checkpoint: str = "flow-tiny"
) -> Arm:
    made = Arm(checkpoint, flow, flow, "sparse", 8, frame_order=frame_order)
    for number, correct in enumerate(right):
        clip = f"clip {number % clips}" if clips else ""
        made.samples["b_x", number] = ScoredSample("b_x", number, correct, "ok", clip=clip)
    return made


def board_of(*arms: Arm) -> Board:
    (board,) = make_boards(list(arms), Settings(resamples=100), allow_differences=True)
    return board


def test_claims_of_a_board() -> None:
    half = [n % 2 == 0 for n in range(400)]
    board = board_of(
        arm("none", [True] * 400),
        arm("cross_frame", [True] * 400),
        arm("video:text", half),
        arm("cross_frame@first_half", half),
        arm("none", [False] * 400, frame_order="reversed"),
    )
    found = {trial.claim.name: trial for trial in trials(board)}
    assert len(found) == len(claims())
    assert found["language-reads-video"].verdict == "holds"
    assert found["across-frames-little"].verdict == "holds"
    assert found["across-frames-hardly"].verdict == "holds"
    assert found["across-frames"].verdict == "fails"  # the rival's
    assert found["order-of-frames"].verdict == "holds"
    assert found["cross-frame-early"].verdict == "holds"
    assert found["early-before-late"].verdict == "not run"
    assert "cross_frame@second_half" in found["early-before-late"].reason
    texts = list(verdict_table(board).texts())
    assert len(texts) == len(claims())
    assert any("-50.0" in cell for row in texts for cell in row)


def test_a_change_against_another_arm_is_on_common_questions() -> None:
    one, other = arm("a", [True, False, False, True]), arm("b", [True, True, False, True])
    other.samples["b_x", 3] = ScoredSample("b_x", 3, None, "error")
    found = difference(one, other)
    assert found.values.tolist() == [0.0, -1.0, 0.0]
    assert found.num_clusters == 3
    assert difference(arm("a", [True] * 6, clips=2), arm("b", [False] * 6, clips=2)).num_clusters == 2


def test_each_checkpoint_has_verdicts_of_its_own() -> None:
    good, bad = [True] * 300, [False] * 300
    board = board_of(
        arm("none", good),
        arm("cross_frame", good),
        arm("none", good, checkpoint="other"),
        arm("cross_frame", bad, checkpoint="other"),
    )
    found = {(t.checkpoint, t.claim.name): t.verdict for t in trials(board)}
    assert found["flow-tiny", "across-frames-hardly"] == "holds"
    assert found["other", "across-frames-hardly"] == "fails"
    assert next(iter(verdict_table(board).texts()))[0] == "flow-tiny"


def test_the_command_lists_and_judges(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["claims"]) == 0
    out = capsys.readouterr().out
    assert all(one.name in out and one.says in out for one in claims())
    assert all(paper in out for paper in PAPERS)
    for number, flow in enumerate(("none", "video:text", "cross_frame")):
        write_log(tmp_path / str(number), flow, [flow != "video:text"] * 200)
    assert main(["claims", str(tmp_path), "--output", str(tmp_path / "v.csv")]) == 0
    out = capsys.readouterr().out
    assert "holds" in out
    assert "no answers under intra_frame" in " ".join(out.split())
    lines = (tmp_path / "v.csv").read_text().splitlines()
    assert len(lines) == 1 + len(claims())
    assert any("language-reads-video," in line and ",holds," in line for line in lines)


def test_a_file_of_verdicts_needs_a_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["claims", "--output", "x.csv"]) == 2
    assert "name the folder of a run" in capsys.readouterr().err


def test_the_page_says_each_claim_its_source_and_its_verdict() -> None:
    right, half = [True] * 400, [n % 2 == 0 for n in range(400)]
    board = board_of(arm("none", right), arm("cross_frame", right), arm("video:text", half, clips=100))
    section = claims_section([board], ["lmms-flow eval"])
    assert section is not None
    (block,) = section.blocks
    assert block.table is not None
    rows = {row[0]: row for row in block.table.texts()}
    by_name = {claim.name: claim for claim in claims()}
    assert set(rows) == {
        "language-reads-video",
        "across-frames-little",
        "across-frames-hardly",
        "across-frames",
    }
    for name, row in rows.items():
        assert row[1] == by_name[name].says
        assert by_name[name].source in row[2]
        assert row[4] == by_name[name].predicted
        assert float(row[7]) > 0  # from where a change would have shown
    assert rows["across-frames"][5] == "fails"
    assert rows["language-reads-video"][5] == "holds"
    assert rows["language-reads-video"][-2:] == ["400", "100"]
    assert f"not run: {len(claims()) - 4}" in block.text
    assert claims_section([board_of(arm("none", right))], []) is None


def test_the_page_escapes_what_a_claim_says(monkeypatch: pytest.MonkeyPatch) -> None:
    hostile = replace(claim(), says="<script>alert(1)</script>", paper="<b>Paper</b>", where="a & b")
    monkeypatch.setattr(verdicts, "claims", lambda: (hostile,))
    section = claims_section([board_of(arm("none", [True] * 9), arm("blind", [False] * 9))], [])
    assert section is not None
    template = environment().from_string("{% import 'parts.html.j2' as parts %}{{ parts.block(block) }}")
    page = template.render(block=section.blocks[0])
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "&lt;b&gt;Paper&lt;/b&gt;" in page
    assert "<script>" not in page
