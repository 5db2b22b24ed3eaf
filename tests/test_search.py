"""The search for a pathway, on made-up answers of which it is known what they need."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from lmms_flow.errors import ReportError
from lmms_flow.flow import Flow
from lmms_flow.flow.pathway import KINDS
from lmms_flow.report import search_runs
from lmms_flow.report.arms import Arm, ScoredSample
from lmms_flow.report.discover import Rule, discover, write_flow
from lmms_flow.report.search_page import searched_file, tables_of, write_figure
from lmms_flow.report.search_runs import Arms, search_from
from lmms_flow.report.searching import Kept, Score, areas, by_rule, search, suggested
from lmms_flow.report.statistics import Paired
from lmms_flow.trace.curves import FlowMap, MapSample

LAYERS, QUESTIONS = 12, 300
# Bins of two layers as the bundled model's card has them: wider than what was planted.
BINS = (
    (-13.2, -13.5, -1.5, 0, 0, 0),
    (0, -16.4, -64.9, -12.4, 0, 0),
    (0, 0, -7.9, -50.0, -36.5, -48.6),
)
RULE = Kept((range(1, 5), range(3, 9), range(5, 13)), LAYERS)
PLANTED = Kept((range(1, 5), range(5, 7), range(7, 13)), LAYERS)
TASK = "flowbench_action_antonym"


def made_map(questions: int = 4) -> FlowMap:
    change = np.array([[bins[layer // 2] for layer in range(LAYERS)] for bins in BINS])
    changed = 0.9 * (1 + change / 100)
    sample = MapSample(
        "0", 0, TASK, "", "", ("A", "B"), "A", "A", 0.9, np.array([0.9, 0.1]), changed,
        np.stack([changed, changed], -1), np.zeros(changed.shape, dtype=np.int64), (0,), True,
    )  # fmt: skip
    samples = tuple(replace(sample, doc_id=n, id=str(n), clip=str(n)) for n in range(questions))
    centres = tuple(range(1, LAYERS + 1))
    return FlowMap("flow-tiny", "flowbench", "paper", 8, KINDS, centres, 3, "center", LAYERS, samples)


def holds(kept: Kept) -> bool:
    """Whether all that was planted is kept."""
    return all(set(own) <= set(each) for own, each in zip(PLANTED.ranges, kept.ranges, strict=True))


class Asked:
    """Answers as a model does that needs what was planted, and half of the time else; keeps what it was asked."""

    def __init__(self) -> None:
        self.rounds: list[tuple[tuple[Kept, ...], int]] = []

    def __call__(self, pathways: Sequence[Kept], questions: int) -> Mapping[Kept, Score]:
        self.rounds.append((tuple(pathways), questions))
        lost = questions // 2
        return {
            each: Score(Paired(questions, questions, 0 if holds(each) else lost, 0), each.foreseen_share, 0.5)
            for each in pathways
        }


def test_the_rule_finds_the_wider_pathway_and_the_search_what_was_planted() -> None:
    flow_map, asked = made_map(), Asked()
    assert by_rule(flow_map, -5.0) == RULE
    found = search(suggested(flow_map, RULE), asked, QUESTIONS, 0.02)
    assert found is not None
    assert found.best == PLANTED
    assert PLANTED.foreseen_share < RULE.foreseen_share
    shares = [each.foreseen_share for each in found.way]
    assert shares == sorted(shares, reverse=True), "the way gets sparser"
    assert asked.rounds[0][1] == QUESTIONS // 4
    assert len(asked.rounds[1][0]) < len(asked.rounds[0][0]), "fewer pathways on more questions"
    assert all(number == QUESTIONS for _, number in asked.rounds[2:])


def test_what_is_suggested_lies_inside_the_rules_and_begins_with_it() -> None:
    made = suggested(made_map(), RULE, arms=9)
    assert made[0] == RULE
    assert len(set(made)) == 9
    for each in made:
        assert all(set(own) <= set(whole) for own, whole in zip(each.ranges, RULE.ranges, strict=True))


def test_without_an_equivalent_pathway_there_is_none() -> None:
    def at_random(pathways: Sequence[Kept], questions: int) -> Mapping[Kept, Score]:
        return {each: Score(Paired(questions, questions, questions // 4, 0), 0.5, 0.5) for each in pathways}

    assert search([RULE, PLANTED], at_random, QUESTIONS, 0.02) is None


def test_a_pathway_as_a_flow() -> None:
    flow = Flow.load("effective-flow-tiny-closed").bind(LAYERS)
    spec = RULE.pathway
    assert spec == {"cross_frame": "1-4", "video:question": "3-8", "question:last": "5-12"}
    assert str(RULE) == "c1-4_v3-8_q5-12"
    assert len(RULE.smaller()) == 6
    assert RULE.inside(RULE.smaller()) == Kept((range(2, 4), range(4, 8), range(6, 12)), LAYERS)
    assert flow.pathway is not None
    assert (flow.pathway.cross_frame, flow.pathway.video_question) == RULE.ranges[:2]


def test_areas_are_those_of_the_lines_between_the_points() -> None:
    whole = areas([(0.5, 1.0)], blind=0.4, full=1.0)  # up to 1 at the half, level from there
    assert whole.cpr == pytest.approx(0.75, abs=1e-3)
    assert whole.cmd == pytest.approx(0.25, abs=1e-3)
    over = areas(
        [(0.5, 1.3)], blind=0.4, full=1.0
    )  # better than full attention counts against it in the second
    assert over.cpr > 0.75 and over.cmd > 1 - over.cpr  # noqa: PT018
    assert np.isnan(areas([(0.5, 1.0)], blind=0.4, full=0.4).cpr)


def made_arm(flow: str, kept: Kept | None, share: float, docs: range) -> Arm:
    right = kept is not None and holds(kept)
    samples = {
        (TASK, doc): ScoredSample(
            TASK, doc, right or doc % 3 == 0, "ok", edges_kept=int(share * 1000), edges_total=1000,
            flops=80, flops_full=100,
        )
        for doc in docs
    }  # fmt: skip
    return Arm("flow-tiny", flow, flow, "sparse", 8, samples=samples)


@pytest.fixture
def answered(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Stands in for lmms-eval: remembers its command lines, and what each run would have written."""
    commands: list[list[str]] = []

    def evaluate(self: Arms, tasks: Sequence[str], first: int, count: int, output: Path) -> None:
        commands.append([*tasks, str(first), str(count)])

    def read(folders: Sequence[Path]) -> Any:
        *tasks, first, count = commands[-1]
        docs = range(int(first), int(first) + int(count))
        arms = [made_arm("none", PLANTED, 1.0, docs)]
        folder = Path(folders[0]).parents[1]
        for file in sorted((folder / "tasks").glob("*.yaml")):
            text = file.read_text().partition("class:")[0]
            flow = yaml.safe_load(text)["flow"]
            if yaml.safe_load(text)["task"] not in tasks:
                continue
            if flow.endswith(".yaml"):
                kept = _kept(Flow.load(flow).bind(LAYERS))
                arms.append(made_arm(flow, kept, kept.foreseen_share, docs))
            else:
                share = 1 - float(flow.split(":")[1]) if flow.startswith("random") else 0.1
                arms.append(made_arm(flow, None, share, docs))
        return type("Reading", (), {"arms": arms})

    monkeypatch.setattr(Arms, "_evaluate", evaluate)
    monkeypatch.setattr(search_runs, "read_runs", read)
    monkeypatch.setattr(search_runs, "_run_of", lambda folders, flow_map: None)
    return commands


def _kept(bound: Any) -> Kept:
    pathway = bound.pathway
    return Kept((pathway.cross_frame, pathway.video_question, pathway.question_last), LAYERS)


def test_a_search_from_a_map_to_a_file(answered: list[list[str]], tmp_path: Path) -> None:
    discovery = discover(made_map(600), Rule())
    outcome = search_from(discovery, ["out"], tmp_path / "found", margin=0.02, arms=12)
    assert outcome.found.best == PLANTED
    *_, first, count = answered[-1]
    assert (first, count) == ("300", "300"), "the second half is held out, and asked once"
    assert [line[-2:] for line in answered[:1]] == [["0", "75"]]
    assert {tuple(line[-2:]) for line in answered[1:-1]} <= {("0", "150"), ("0", "300")}
    held = {each.name: each for each in outcome.held}
    best = held[str(PLANTED)]
    assert best.score.equivalent(0.02)
    assert best.score.edges < held[str(RULE)].score.edges
    same_size = [
        each for each in outcome.of("random") if each.score.edges == pytest.approx(best.score.edges, abs=2e-3)
    ]
    assert len(same_size) == 3
    assert all(each.score.is_worse(0.02) for each in same_size)
    assert outcome.areas["search"].cmd < outcome.areas["rule"].cmd < outcome.areas["random"].cmd
    content = searched_file(discovery, outcome, 0.02, "found", ["lmms-flow", "discover", "out", "--search"])
    flow = write_flow(content, tmp_path / "found.yaml")
    assert not [cut for cut in flow.bind(LAYERS).cuts if not cut]
    assert _kept(flow.bind(LAYERS)) == PLANTED
    assert "held out: 300 questions, accuracy 100.0%" in content["comment"]
    assert [table.name for table in tables_of(outcome, 0.02)] == ["search", "areas"]
    assert write_figure(outcome, tmp_path / "frontier.png").stat().st_size > 5_000
    assert len(outcome.file.read_text().splitlines()) == 1 + len(outcome.held)


def test_a_map_of_few_questions_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ReportError, match="no results file of a run of flow-tiny"):
        search_from(discover(made_map(), Rule()), [tmp_path], tmp_path / "found", 0.02, 8)
