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
from lmms_flow.flow.presets import PRESETS
from lmms_flow.report import search_arms, search_runs
from lmms_flow.report.areas import areas
from lmms_flow.report.arms import Arm, ScoredSample
from lmms_flow.report.discover import Rule, discover, write_flow
from lmms_flow.report.kept import EDGES, Kept, at_random, narrow
from lmms_flow.report.search_arms import Arms
from lmms_flow.report.search_page import searched_file, tables_of, write_figure
from lmms_flow.report.search_runs import search_from
from lmms_flow.report.searching import FEW, SOME, Score, by_rule, search, suggested
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
    return all(set(own) <= set(kept.edges[edge]) for edge, own in zip(KINDS, PLANTED.ranges, strict=True))


class Asked:
    """Answers as a model does that needs what was planted, and half of the time else; keeps what it was asked."""

    def __init__(self) -> None:
        self.rounds: list[tuple[tuple[Kept, ...], int]] = []

    def __call__(self, pathways: Sequence[Kept], questions: int) -> Mapping[Kept, Score]:
        self.rounds.append((tuple(pathways), questions))
        lost = questions // 2
        return {
            each: Score(
                Paired(questions, questions, 0 if holds(each) else lost, 0),
                each.foreseen_share,
                flops=0.5,
                change=0.0 if holds(each) else -50.0,
            )
            for each in pathways
        }


def test_the_rule_finds_the_wider_pathway_and_the_search_what_was_planted() -> None:
    """Of what a closed pathway keeps beside the planted way the model needs nothing, so as good as nothing is left."""
    flow_map, asked = made_map(), Asked()
    assert by_rule(flow_map, -5.0) == RULE
    found = search(suggested(flow_map, RULE), asked, QUESTIONS, 0.02)
    assert found is not None
    assert found.best.foreseen_share < PLANTED.foreseen_share < RULE.foreseen_share
    assert holds(found.best)
    needed = dict(zip(KINDS, PLANTED.ranges, strict=True))
    assert {edge: found.best.edges[edge] for edge in KINDS} == needed
    for shorter in found.best.smaller(1):  # what still goes away costs answers
        assert not holds(shorter), (shorter.edges, found.best.edges)
    shares = [each.foreseen_share for each in found.way]
    assert shares == sorted(shares, reverse=True), "the way gets sparser"
    assert asked.rounds[0][1] == -(-QUESTIONS // FEW)
    assert len(asked.rounds[1][0]) < len(asked.rounds[0][0]), "fewer pathways on more questions"
    assert {number for _, number in asked.rounds} == {-(-QUESTIONS // part) for part in (FEW, SOME, 1)}
    few = sum(len(pathways) for pathways, number in asked.rounds if number < QUESTIONS // 2)
    assert few > 5 * sum(len(pathways) for pathways, number in asked.rounds if number == QUESTIONS)


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


def test_what_few_questions_speak_for_does_not_end_the_search() -> None:
    """Sparse pathways that lose one answer in thirty: on few questions they look well, on all of them none holds."""
    safe = RULE

    def seldom(pathways: Sequence[Kept], questions: int) -> Mapping[Kept, Score]:
        def lost(each: Kept) -> int:
            return 0 if each == safe else max(questions // 30, 0)

        return {
            each: Score(
                Paired(questions, questions, lost(each), 0),
                each.foreseen_share,
                0.5,
                -100 * lost(each) / questions,
            )
            for each in pathways
        }

    start = suggested(made_map(), RULE, arms=12)
    assert sorted(start, key=lambda each: each.foreseen_share)[-1] == safe, "the halving leaves it behind"
    found = search(start, seldom, QUESTIONS, 0.02, arms=2)
    assert found is not None
    assert found.way[0] == safe


def test_a_pathway_as_a_flow() -> None:
    flow = Flow.load("effective-flow-tiny-closed").bind(LAYERS)
    spec = RULE.pathway
    assert spec == {"cross_frame": "1-4", "video:question": "3-8", "question:last": "5-12"}
    assert str(RULE) == "c1-4_v3-8_q5-12"
    ranges = [each for each in RULE.smaller(1) if not each.narrowed]
    assert len(ranges) == 6
    assert RULE.inside(ranges) == Kept((range(2, 4), range(4, 8), range(6, 12)), LAYERS)
    assert flow.pathway is not None
    assert (flow.pathway.cross_frame, flow.pathway.video_question) == RULE.ranges[:2]


def test_a_pathway_keeps_of_every_kind_of_edge_what_its_closed_form_keeps() -> None:
    bound = Flow.load("effective-flow-tiny-closed").bind(LAYERS)
    for edge, kept in RULE.edges.items():
        cut = {layer for layer, cuts in enumerate(bound.cuts, 1) if edge in map(str, cuts)}
        if edge == "cross_frame":  # it is cut with video:video
            cut |= {layer for layer, cuts in enumerate(bound.cuts, 1) if "video:video" in map(str, cuts)}
        assert set(kept) == set(range(1, LAYERS + 1)) - cut, edge
    assert len(EDGES) == 22


def test_a_narrower_pathway_is_a_file_that_cuts_just_that_more(tmp_path: Path) -> None:
    less = narrow(
        RULE, {"system:question": range(3, 6), "question:question": range(0), "video:question": range(1, 6)}
    )
    assert less.rules == (
        "system:question@1-2",
        "system:question@6-12",
        "video:question@6-8",
        "question:question@1-12",
    )
    file = tmp_path / "less.yaml"
    file.write_text(yaml.safe_dump({"name": "less", **less.content}))
    flow, closed = Flow.load(file).bind(LAYERS), Flow.load("effective-flow-tiny-closed").bind(LAYERS)
    more = [
        {str(cut) for cut in cuts} - {str(cut) for cut in whole}
        for cuts, whole in zip(flow.cuts, closed.cuts, strict=True)
    ]
    assert more[0] == {"system:question", "question:question"}
    assert more[2] == {"question:question"}
    assert more[6] == {"system:question", "question:question", "video:question"}
    assert flow.pathway == closed.pathway
    assert less.foreseen_share < RULE.foreseen_share
    assert str(less) != str(RULE)
    assert narrow(less, {}) == RULE
    assert less.inside([narrow(RULE, {"system:question": range(4, 9)})]).edges["system:question"] == range(
        4, 6
    )


@pytest.mark.parametrize("seed", range(4))
def test_a_random_pathway_keeps_as_many_edges_of_each_kind(seed: int, tmp_path: Path) -> None:
    less = narrow(PLANTED, {"system:question": range(3, 6), "tail:last": range(0)})
    file = tmp_path / "random.yaml"
    file.write_text(yaml.safe_dump({"name": "random", **at_random(less, seed)}))
    flow = Flow.load(file)
    kept, total = flow.kept_edges(PRESETS[0].layout(), LAYERS)
    sized = Flow.load(_written(tmp_path / "less.yaml", less)).kept_edges(PRESETS[0].layout(), LAYERS)
    assert (kept, total) == sized
    assert at_random(less, seed) == at_random(less, seed)
    assert at_random(less, seed) != at_random(less, seed + 1)
    bound = flow.bind(LAYERS)
    read = {n for n, cuts in enumerate(bound.cuts, 1) if "video:question" not in map(str, cuts)}
    assert len(read) == len(less.edges["video:question"])


def _written(file: Path, kept: Kept) -> Path:
    file.write_text(yaml.safe_dump({"name": "less", **kept.content}))
    return file


def test_no_pathway_is_tried_in_which_a_token_reads_nothing() -> None:
    tried = [each for layers in (12, 6, 3, 1) for each in RULE.smaller(layers)]
    assert all(each.is_possible for each in tried)
    assert not any(each.edges["system:system"] != range(1, 13) for each in tried)
    dropped = {edge for each in RULE.smaller(12) for edge, kept in each.narrowed if not kept}
    assert {"system:question", "gap:question", "system:last"} <= dropped
    alone = narrow(
        RULE, {"system:video": range(0)}
    )  # then frames read nothing where they don't read themselves
    assert not alone.is_possible


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
            bound = Flow.load(flow).bind(LAYERS)
            kept = _kept(bound) if bound.pathway else None
            left, total = Flow.load(flow).kept_edges(PRESETS[0].layout(), LAYERS)
            arms.append(made_arm(flow, kept, left / total, docs))
        return type("Reading", (), {"arms": arms})

    monkeypatch.setattr(Arms, "_evaluate", evaluate)
    monkeypatch.setattr(search_arms, "read_runs", read)
    monkeypatch.setattr(search_runs, "run_of", lambda folders, flow_map: None)
    return commands


def _kept(bound: Any) -> Kept:
    pathway = bound.pathway
    whole = Kept((pathway.cross_frame, pathway.video_question, pathway.question_last), LAYERS)
    kept = {}
    for edge in EDGES:
        layers = [layer for layer, cuts in enumerate(bound.cuts, 1) if edge not in map(str, cuts)]
        kept[edge] = range(layers[0], layers[-1] + 1) if layers else range(0)
    return narrow(whole, kept)


def test_a_search_from_a_map_to_a_file(answered: list[list[str]], tmp_path: Path) -> None:
    discovery = discover(made_map(600), Rule())
    outcome = search_from(discovery, ["out"], tmp_path / "found", margin=0.02, arms=12)
    found = outcome.found.best
    assert holds(found)
    assert found.foreseen_share < PLANTED.foreseen_share
    *_, first, count = answered[-1]
    assert (first, count) == ("300", "300"), "the second half is held out, and asked once"
    assert [line[-2:] for line in answered[:1]] == [["0", "19"]]
    assert {tuple(line[-2:]) for line in answered[1:-1]} <= {("0", "19"), ("0", "75"), ("0", "300")}
    held = {each.name: each for each in outcome.held}
    best = held[str(found)]
    assert best.score.equivalent(0.02)
    assert best.score.edges < held[str(RULE)].score.edges
    same_size = [each for each in outcome.of("random") if each.name.endswith(str(found))]
    assert all(each.score.edges == pytest.approx(best.score.edges, abs=2e-3) for each in same_size)
    assert len(same_size) == 3
    assert all(each.score.is_worse(0.02) for each in same_size)
    assert outcome.areas["search"].cmd < outcome.areas["rule"].cmd < outcome.areas["random"].cmd
    content = searched_file(discovery, outcome, 0.02, "found", ["lmms-flow", "discover", "out", "--search"])
    flow = write_flow(content, tmp_path / "found.yaml")
    assert not [cut for cut in flow.bind(LAYERS).cuts if not cut]
    assert _kept(flow.bind(LAYERS)) == found
    assert "held out: 300 questions, accuracy 100.0%" in content["comment"]
    assert [table.name for table in tables_of(outcome, 0.02)] == ["search", "areas"]
    assert write_figure(outcome, tmp_path / "frontier.png").stat().st_size > 5_000
    assert len(outcome.file.read_text().splitlines()) == 1 + len(outcome.held)


def test_a_map_of_few_questions_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ReportError, match="no results file of a run of flow-tiny"):
        search_from(discover(made_map(), Rule()), [tmp_path], tmp_path / "found", 0.02, 8)
